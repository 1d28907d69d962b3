"""What outputs and gradients are held against, and how far from it they may be."""
