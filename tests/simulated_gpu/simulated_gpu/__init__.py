"""A GPU that is not there, so that what the harness does on CUDA is run where there is none.

Tensors on `cuda:0` are computed with on the CPU; streams, events, graphs, the allocator and the profiler
behave as CUDA's do, as far as the harness can tell. Not simulated: compiled code (`flex`, Triton), training,
and models of Hugging Face. Its speeds are those of the CPU and mean nothing, and its name says what it is.

A process that has this folder's parent in `PYTHONPATH`, and in `SIMULATED_GPU` the path of the compiled
`device_guard.cpp`, has one as soon as it imports torch.
"""

from __future__ import annotations

import ctypes


def install(guard: str) -> None:
    """Give PyTorch, which was just imported, the simulated GPU. `guard`: the compiled `device_guard.cpp`."""
    import torch
    import torch.profiler

    from simulated_gpu import cuda_api, profiler, tensors

    ctypes.CDLL(guard)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) makes it here, and copies
    for name, stand_in in cuda_api.STAND_INS.items():
        getattr(torch.cuda, name)  # nothing stands in for what is not there
        setattr(torch.cuda, name, stand_in)
    torch.cuda.streams.Stream, torch.cuda.streams.Event = cuda_api.Stream, cuda_api.Event
    torch.cuda.graphs.CUDAGraph = cuda_api.CUDAGraph
    for name in cuda_api.NOTHING_TO_DO:
        setattr(torch._C, name, lambda *_: None)
    torch.profiler.profile = profiler.profile
    torch.version.cuda = "13.0"
    tensors.Dispatch().__enter__()
