"""Other projects' implementations, each called as its authors mean it."""
