"""What disturbs measurements on this machine."""
