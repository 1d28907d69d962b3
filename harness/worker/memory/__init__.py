"""The memory of a call, and the limits that it must keep."""
