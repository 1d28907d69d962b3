"""Tensors that say that they are on `cuda:0`, and are computed with on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simulated_gpu.device import DEVICE

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
WAITS_FOR_THE_DEVICE = ("_local_scalar_dense", "item", "nonzero", "is_nonzero")
FACTORIES_WITHOUT_VALUES = ("empty", "new_empty", "empty_like", "empty_strided")


class SimulatedTensor(torch.Tensor):
    """Outside a tensor of the GPU, inside one of the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> SimulatedTensor:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=GPU,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        DEVICE.hold(inner)
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"on {GPU}: {self.inner!r}"

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()


class Dispatch(TorchDispatchMode):
    """Catches what makes tensors, which is asked of no tensor."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled: to keep the compiler out, PyTorch would import it for 1.3 s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute with the inner tensors. What is computed from tensors of the GPU is on it as well."""
    values = _leaves((*args, *kwargs.values()))
    simulated = [value for value in values if isinstance(value, SimulatedTensor)]
    devices = [value for value in values if isinstance(value, torch.device)]
    is_on_gpu = devices[-1].type == "cuda" if devices else bool(simulated)
    if not simulated and not is_on_gpu:
        return func(*args, **kwargs)
    name = func.overloadpacket.__name__
    is_copy_across = is_on_gpu != bool(simulated) and any(isinstance(v, torch.Tensor) for v in values)
    if name in WAITS_FOR_THE_DEVICE or is_copy_across or _mixes_devices(values):
        DEVICE.wait_until(DEVICE.busy_until_ns)
    _require_one_device(name, values)
    args, kwargs = _map(_inside, args), {key: _map(_inside, value) for key, value in kwargs.items()}
    given = {tensor.inner.untyped_storage()._cdata for tensor in simulated}

    def is_work(result: Any) -> bool:
        return func._schema.is_mutable or (
            name not in FACTORIES_WITHOUT_VALUES
            and any(one.untyped_storage()._cdata not in given for one in _tensors(result))
        )

    result = DEVICE.run(name, lambda: func(*args, **kwargs), is_work)
    if not is_on_gpu:
        return result
    known = {id(tensor.inner): tensor for tensor in simulated}  # written in place, or handed through
    if DEVICE.capture is not None and is_work(result):
        outputs = _tensors(result)
        DEVICE.capture.fresh += [one for one in outputs if id(one) not in known]
        DEVICE.capture.nodes.append(_replay_of(name, func, args, kwargs, outputs))

    def outside(one: torch.Tensor) -> torch.Tensor:
        return known[id(one)] if id(one) in known else SimulatedTensor(one)

    return _map(lambda one: outside(one) if isinstance(one, torch.Tensor) else one, result)


def _leaves(values: Iterable[Any]) -> list[Any]:
    """Return what stands in lists and tuples, at any depth: PyTorch's pytrees take several times as long."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found += _leaves(value)
        else:
            found.append(value)
    return found


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """Return the same lists and tuples, of changed leaves."""
    if isinstance(value, (list, tuple)):
        return type(value)([_map(change, one) for one in value])
    return change(value)


def _inside(value: Any) -> Any:
    """Return the CPU's part of what an operator of the GPU was given."""
    if isinstance(value, SimulatedTensor):
        return value.inner
    return CPU if isinstance(value, torch.device) else value


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in _leaves((values,)) if isinstance(value, torch.Tensor)]


def _mixes_devices(values: list[Any]) -> bool:
    """Whether tensors of both sides take part, scalars aside."""
    tensors = [value for value in values if isinstance(value, torch.Tensor) and value.dim() > 0]
    return len({isinstance(tensor, SimulatedTensor) for tensor in tensors}) > 1


def _require_one_device(name: str, values: list[Any]) -> None:
    """Only copies take tensors of two devices, and indexing takes indices of the CPU."""
    if _mixes_devices(values) and name not in ("copy_", "index", "_to_copy", "to", "set_"):
        raise RuntimeError(f"Expected all tensors to be on the same device, in {name}")


def _replay_of(name: str, func: Any, args: Any, kwargs: Any, outputs: list[torch.Tensor]) -> Any:
    """Compute again from the same addresses, into the same."""

    def replay() -> None:
        with torch.inference_mode():
            again = DEVICE.run(name, lambda: func(*args, **kwargs), lambda _: True)
            for output, value in zip(outputs, _tensors(again), strict=True):
                if value is not output:
                    output.copy_(value)

    return replay
