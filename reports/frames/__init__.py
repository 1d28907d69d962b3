"""The frame that a report works on, and what is computed from it."""
