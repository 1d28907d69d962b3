"""`cpu_decode`: a C++ kernel of our own for CPUs, how it is built, and how its work is cut."""

from gqabench.attention_impls.kernels.cpu_decode.impl import CpuDecode

__all__ = ["CpuDecode"]
