"""The contract of an implementation: the types that every file of this package uses. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from gqabench.attention_impls.problem import AttentionProblem


@dataclass(frozen=True)
class AttentionInputs:
    """The tensors of one problem, in the problem's dtype and on its device.

    The harness writes new queries into `q` between calls, as a decoder does. `q` is contiguous. `k` and `v`
    are contiguous in the harness. In a layer they are the filled part of a longer cache, and in a model
    without a cache tokens may come before heads: only the elements of one token are always contiguous.
    """

    q: torch.Tensor
    """`[batch_size, num_q_heads, q_len, head_dim]`"""
    k: torch.Tensor
    """`[batch_size, num_kv_heads, kv_len, head_dim]`"""
    v: torch.Tensor
    """`[batch_size, num_kv_heads, kv_len, head_dim]`"""


@dataclass(frozen=True)
class PreparedAttention:
    """One implementation, set up for one problem: calling it only runs."""

    run: Callable[[], torch.Tensor]
    """Returns `[batch_size, num_q_heads, q_len, head_dim]`; a view is fine."""
    kv_cache_bytes: int
    """Bytes that this implementation keeps resident for the cache, scales and page padding included."""
    compile_ms: float | None = None
    """The part of `prepare` that was compilation; None where there is none."""
    autotune_ms: float | None = None
    plan_ms: float | None = None
    kernel_config: str | None = None
    """The kernel configuration that was chosen for this problem, and how it was obtained."""

    def __call__(self) -> torch.Tensor:
        return self.run()


class Copying(StrEnum):
    """How much of K and V a call copies temporarily, for one purpose."""

    NONE = "no"
    TILES = "tiles"
    """Some tokens at a time, so that the copy does not grow with the context."""
    WHOLE = "whole"
    """All of K and V at once: workspace of the size of the cache, or more."""
    UNKNOWN = "not known"
    """Left to a library, which chooses by shape, dtype and device."""


@dataclass(frozen=True, kw_only=True)
class TimedCall:
    """What a timed call does besides attention over the cached K and V: the fairness contract.

    Work that is not in the call is done in `prepare`. To compare two implementations fairly, a reader has to
    know how they differ here.
    """

    cache_append: bool = False
    """New keys and values are written into the cache."""
    planning: bool = False
    """Host work that a decoder does once a step, such as choosing splits, is repeated in every call."""
    layout_conversion: Copying = Copying.NONE
    """K and V are brought into another layout or a wider dtype; gathering pages is that too."""
    dequantisation: Copying = Copying.NONE
    """A quantised cache is expanded to `dtype` in memory. NONE: in registers, or none is served."""
    kv_expansion: Copying = Copying.NONE
    """K and V are repeated for the query heads of a group, where there is more than one."""
    num_launches: int | None = None
    """Kernels that a call launches on CUDA; None where that is not known or differs between problems."""


class AttentionImpl(ABC):
    """One attention implementation. The no-argument constructor does no work.

    Deriving from this class is a convenience: any class with the same members is accepted.
    """

    name: ClassVar[str]
    """The name that selects it, and a promise of what runs."""

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    """Kinds of device that it has code for. What else it needs there, `unsupported_reasons` says."""

    extras: ClassVar[tuple[str, ...]] = ()
    """Extras of this project that install what it imports, one of which is enough; empty needs none."""

    serves: ClassVar[frozenset[str]] = frozenset()
    """Fields of the problem, of those that version 0.2 did not have, that it computes.

    A problem that uses another such field is unsupported, whatever `unsupported_reasons` says: code that was
    written before a field existed cannot have refused it.
    """

    reads_cache_in_place: ClassVar[bool] = True
    """Whether a prepared call sees what is later written into `inputs.k` and `inputs.v`.

    An implementation that converts the cache to a layout of its own says False.
    """

    compiles_each_problem: ClassVar[bool] = False
    """Whether `prepare` compiles for seconds for each new problem or class of them: tests use fewer then."""

    has_backward: ClassVar[bool] = False
    """Whether autograd can differentiate a call by `inputs.q`, `inputs.k` and `inputs.v`."""

    allocates_outside_torch: ClassVar[bool] = False
    """Whether a call takes memory that PyTorch's allocator cannot see; its workspace is not measured."""

    promised_operators: ClassVar[tuple[str, ...]] = ()
    """Operators of PyTorch, by how their names begin, of which a call must run one; empty promises none.

    They are looked up in a profile of one call. A call that runs something else is not `ok`.
    """

    timed_call: ClassVar[TimedCall | None] = None
    """What a call contains; None where its author does not say."""

    @abstractmethod
    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return why this implementation cannot compute the problem here; empty means that it can."""

    @abstractmethod
    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        """Store K and V in the cache, and do all work that is not part of a call.

        That includes layout conversion, masks, page tables, compilation and autotuning. Only the call is
        timed.
        """
