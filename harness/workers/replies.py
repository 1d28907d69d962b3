"""What a worker answers: a frozen dataclass for each reply. The worker builds it, its parent reads it.

Workers of older revisions serve too (`gqabench ab`): unknown keys are ignored, and what an older worker does
not send is None. So a field that is added has a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from gqabench.harness.plain_values import from_plain


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Values that go as a JSON object from the worker to its parent."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, under the names of the fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what a worker sent. Raises `ValueError` naming what it lacks."""
        return from_plain(cls, values)


@dataclass(frozen=True, kw_only=True)
class RecordFields(Reply):
    """A reply whose fields are those of a record, by the same names: see `gqabench.results.Record`."""


@dataclass(frozen=True, kw_only=True)
class CaseOpened(RecordFields):
    """`open_case`: the inputs and the reference are there."""

    error_budget: float
    timing_method: str
    num_checked_queries: int
    num_checked_heads: int | None = None
    quantisation_error: float | None = None
    num_threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class OutputErrors(RecordFields):
    """`verify`: the errors of an output that is correct."""

    max_error: float
    error_ratio: float


@dataclass(frozen=True, kw_only=True)
class ArmPrepared(RecordFields):
    """`prepare`: an arm is set up, and its first outputs are correct."""

    prepare_ms: float
    first_call_ms: float
    kv_cache_bytes: int
    prepared_bytes: int
    prepared_unseen_bytes: int | None = None
    huge_page_share: float | None = None
    compile_ms: float | None = None
    autotune_ms: float | None = None
    plan_ms: float | None = None
    kernel_config: str | None = None
    timed_call: dict[str, Any] | None = None
    prefill_ms: float | None = None
    prefill_samples_ms: list[float] | None = None
    prefill_peak_workspace_bytes: int | None = None
    max_error: float
    error_ratio: float


@dataclass(frozen=True, kw_only=True)
class CallMemory(RecordFields):
    """`weigh`: the memory of one call, and what it ran."""

    peak_workspace_bytes: int | None
    """None where an implementation allocates outside PyTorch"""
    allocator_reserved_bytes: int | None = None
    allocator_allocated_bytes: int | None = None
    allocator_peak_bytes: int | None = None
    process_bytes: int | None = None
    unexplained_bytes: int | None = None
    unseen_workspace_bytes: int | None = None
    kernels: list[str]
    num_launches: int | None = None


CALLS_OF_LONG_SLICE = 5
"""From so many on, a slice begins with calls that are not timed: one, where caches are cold."""


@dataclass(frozen=True, kw_only=True)
class CallTimes(Reply):
    """`measure`: some calls, timed in one go."""

    samples_ms: list[float]
    num_exposed: int = 0
    """Calls during which a GPU waited for the host to launch"""
    busy_cores: dict[str, float] = field(default_factory=dict)
    """Cores that others of this run kept busy meanwhile, on average: by the arm that left the threads"""


@dataclass(frozen=True, kw_only=True)
class CrossCheck(RecordFields):
    """`cross_check`: what a GPU's calls take by other ways of timing."""

    eager_ms: float
    kernel_ms: float | None = None
    kernel_ms_source: str | None = None
    graph_latency_ms: float | None = None
    graph_samples_ms: list[float] | None = None
    graph_pool_bytes: int | None = None
    graph_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class CallsMade(Reply):
    """`run_for`: calls that followed one another at once, and how long they took."""

    num_calls: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CaseClosed(Reply):
    """`close_case`: nothing of the case is left."""

    is_spoilt: bool = False
    """Whether another process should measure the next case"""


@dataclass(frozen=True, kw_only=True)
class Support(Reply):
    """`explain_support`: why an implementation cannot compute each of some problems."""

    reasons: list[list[str]]
    """Of each problem; empty where the implementation can compute it"""


@dataclass(frozen=True, kw_only=True)
class Nothing(Reply):
    """`drop`: no content."""


@dataclass(frozen=True, kw_only=True)
class Failure(Reply):
    """Any operation: what was asked for went wrong."""

    outcome: str
    """As in a record"""
    reason: str
    max_error: float | None = None
    """Of an output that is not correct"""
    error_ratio: float | None = None
    is_poisoned: bool = False
    """Whether what went wrong would disturb other implementations in this worker"""
    is_unusable: bool = False
    """Whether the interpreter cannot be a worker at all"""
