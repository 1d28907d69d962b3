"""How libraries are called: PyTorch's kernels, and other packages."""
