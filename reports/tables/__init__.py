"""The tables of a report, and the words that explain them."""
