"""What an implementation promises: the types that every file of this package meets. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from attention_impls.problem import AttentionProblem


@dataclass(frozen=True)
class AttentionInputs:
    """The tensors of one problem, in the problem's dtype and on its device.

    The harness writes new queries into `q` between calls, as a decoder does. `q` is contiguous. So are `k`
    and `v` in the harness, but in a layer they are the filled part of a longer cache: only their last two
    dimensions are sure to be contiguous.
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

    def __call__(self) -> torch.Tensor:
        return self.run()


class AttentionImpl(ABC):
    """One attention implementation. The no-argument constructor does no work.

    Deriving from this class is a convenience: any class with the same members is accepted.
    """

    name: ClassVar[str]
    """The name under which it is asked for, and a promise of what runs."""

    reads_cache_in_place: ClassVar[bool] = True
    """Whether a prepared call sees what is later written into `inputs.k` and `inputs.v`.

    An implementation that converts the cache to a layout of its own says False.
    """

    promised_operators: ClassVar[tuple[str, ...]] = ()
    """Operators of PyTorch, by how their names begin, of which a call must run one; empty promises none.

    They are looked up in a profile of one call. A call that runs something else is not `ok`.
    """

    @abstractmethod
    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Why this implementation cannot compute the problem here; empty means that it can."""

    @abstractmethod
    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        """Take K and V into the cache and do all work that is not part of a call."""
