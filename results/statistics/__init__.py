"""Statistics of samples and of paired ratios: pure functions."""
