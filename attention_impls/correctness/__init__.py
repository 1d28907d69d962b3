"""The float64 reference for outputs and gradients, and how far from it they may be."""
