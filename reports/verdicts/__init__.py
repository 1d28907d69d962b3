"""A comparison for its readers: people at a terminal or in a pull request, CI systems, other tools."""
