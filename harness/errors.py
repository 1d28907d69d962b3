"""A user's mistake: one clear line on standard error, exit code 2."""


class UsageError(ValueError):
    """The message names the key, the value and what would be valid."""
