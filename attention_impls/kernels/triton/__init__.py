"""Our Triton kernels: device code, how it is scheduled, launched and tuned.

Imported only by the implementations that run them, and only when they are prepared: Triton decides when a
kernel is decorated whether it is compiled or interpreted (`TRITON_INTERPRET=1`).
"""
