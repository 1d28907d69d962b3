"""This project's own kernels: C++ for CPUs, Triton for GPUs."""
