"""`cpu_decode`: our C++ kernel for CPUs, how it is built, and how its work is divided."""

from gqabench.attention_impls.kernels.cpu_decode.impl import CpuDecode

__all__ = ["CpuDecode"]
