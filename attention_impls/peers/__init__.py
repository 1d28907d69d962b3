"""Other projects' implementations, each called as its authors intend."""
