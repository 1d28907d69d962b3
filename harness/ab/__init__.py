"""Two environments measured in interleaved pairs of fresh processes."""
