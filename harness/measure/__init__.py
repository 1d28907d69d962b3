"""One case from its first attempt to its records."""
