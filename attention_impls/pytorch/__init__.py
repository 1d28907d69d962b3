"""PyTorch's own attention kernels, and plain formulas given to its compiler."""
