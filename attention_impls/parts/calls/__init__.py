"""How libraries are called: PyTorch's kernels, and packages beside it."""
