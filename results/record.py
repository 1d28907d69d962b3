"""The record: what was measured for one arm on one problem in one process.

Every field is documented here, with its unit in its name; what was not measured is None, never 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 2
"""2 added columns, all of which may be null: records of version 1 load with nulls there."""


class Outcome(StrEnum):
    """How the measuring of one arm ended. Only `ok` carries a latency."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    INCORRECT = "incorrect"
    OOM = "oom"
    TIMEOUT = "timeout"
    CRASH = "crash"
    ERROR = "error"


FINAL_OUTCOMES = frozenset({Outcome.OK, Outcome.UNSUPPORTED, Outcome.INCORRECT})
"""Outcomes that measuring again would not change: a resumed sweep skips them."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row. Fields without a default are known before anything is measured."""

    # Identity
    run_id: str
    case_id: str
    """Hash of the problem, workload and model: the same in every run that measures it."""
    cell_id: str
    """Hash of all that makes two measurements comparable: case, impl, code, libraries, driver, device."""
    impl: str
    environment: str
    """Name of the interpreter and packages that ran it; `current` is the one that runs gqabench."""
    outcome: Outcome
    reason: str | None = None
    """Why the outcome is not `ok`."""

    # Problem
    model: str | None = None
    """Name of the `model/` preset that the shape started from."""
    workload: str
    phase: str | None
    batch_size: int
    q_len: int | None
    kv_len: int
    num_q_heads: int
    """Of one tensor-parallel rank, like every count of heads in a record."""
    num_kv_heads: int
    group_size: int | None
    head_dim: int
    num_layers: int | None = None
    tp: int = 1
    """Tensor-parallel ranks that the model's heads are divided over."""
    dtype: str
    kv_dtype: str | None = None
    window: int | None = None
    logits_soft_cap: float | None = None
    page_size: int | None = None
    model_layers: int | None = None
    """`workload=generate`: layers of the model that was built and measured, of the preset's `num_layers`."""
    intermediate_size: int | None = None
    """`workload=generate`: width of the model's MLP."""
    hf_cache: str | None = None
    """`workload=generate`: which of Hugging Face's caches, `dynamic` or `static`."""
    device: str
    device_name: str | None = None

    # Time
    latency_ms: float | None = None
    """Median of `samples_ms`: of one attention call, one layer, one training step of attention or, in
    `workload=generate`, one decode step of a model."""
    latency_ci_low_ms: float | None = None
    latency_ci_high_ms: float | None = None
    """95 % interval of the median, from order statistics."""
    samples_ms: list[float] | None = None
    """Time of each timed call, raw and in order."""
    calls_per_slice: int | None = None
    """Consecutive samples that were taken in one round, before the other arms had their turn."""
    num_processes: int | None = None
    timing_method: str | None = None
    cache_state: str | None = None
    """`cold`: more than the last-level cache was flushed before each call; `warm`: it was not."""
    warm_latency_ms: float | None = None
    """Median of `warm_samples_ms`: the same calls without the flush, where both states were asked for."""
    warm_latency_ci_low_ms: float | None = None
    warm_latency_ci_high_ms: float | None = None
    """95 % interval of that median. The flags are those of either series."""
    warm_samples_ms: list[float] | None = None
    graph_latency_ms: float | None = None
    """CUDA: median of `graph_samples_ms`, a check on `latency_ms`."""
    graph_samples_ms: list[float] | None = None
    """CUDA: times of calls that were captured as a graph, each after a flush of the L2, in order."""
    graph_reason: str | None = None
    """CUDA: why the calls have no `graph_latency_ms`."""
    kernel_ms: float | None = None
    """CUDA: median of what the kernels of a call take by CUPTI, gaps between them left out."""
    kernel_ms_source: str | None = None
    """`cupti` or `torch.profiler`: by which way CUPTI was asked."""
    eager_ms: float | None = None
    """CUDA: median wall time of a call and the wait for it, as a caller sees it, launches included."""
    prefill_ms: float | None = None
    """`workload=generate`: median of `prefill_samples_ms`."""
    prefill_samples_ms: list[float] | None = None
    """`workload=generate`: wall time of the model on the `kv_len - 1` tokens before the decode step, into a
    new cache, by a caller that waits for it; the first time, which warms up, is left out."""
    prepare_ms: float | None = None
    """Host time of `prepare`, all of what follows included. Not part of the latency."""
    compile_ms: float | None = None
    """The part of `prepare` that the implementation calls compilation."""
    autotune_ms: float | None = None
    plan_ms: float | None = None
    first_call_ms: float | None = None
    timed_call: dict[str, Any] | None = None
    """What a call contains, as the implementation declares it: the fields of `TimedCall`."""
    num_threads: int | None = None
    """Threads that a CPU call may use."""

    # Derived
    tokens_per_s: float | None = None
    """New tokens per second: `batch_size * q_len / latency`. Of one layer; in `workload=generate`, of a
    model of `model_layers` layers."""
    model_bytes: int | None = None
    """Bytes that the problem must move at least once."""
    model_flops: int | None = None
    achieved_gb_per_s: float | None = None
    achieved_tflop_per_s: float | None = None
    roof: str | None = None
    """The measured ceiling that bounds this problem: `read_gb_per_s` or `matmul_tflop_per_s`."""
    roof_fraction: float | None = None
    """Achieved share of that ceiling."""

    # Memory, of one layer unless the name says otherwise
    kv_cache_bytes_model: int | None = None
    """Cache bytes by the formula."""
    kv_cache_bytes_model_per_token: int | None = None
    """Cache bytes of one token over all layers, by the formula."""
    kv_cache_bytes_model_all_layers: int | None = None
    kv_cache_bytes: int | None = None
    """Cache bytes as the implementation holds them."""
    peak_workspace_bytes: int | None = None
    """Allocator peak of one call less what was resident before it: its output and all temporaries. On a CPU
    the sum of what the calling thread allocates: what it frees that was made before the call lowers nothing,
    and threads that an implementation starts itself are not seen."""
    prefill_peak_workspace_bytes: int | None = None
    """`workload=generate`: the same of a prefill; it makes its cache, which counts."""
    allocator_allocated_bytes: int | None = None
    """CUDA: what the allocator had handed out before the call."""
    allocator_reserved_bytes: int | None = None
    """CUDA: what the allocator had taken from the device after the call."""
    allocator_peak_bytes: int | None = None
    """CUDA: the most that the allocator had handed out during the call."""
    unseen_workspace_bytes: int | None = None
    """CPU: by how much more the process grew for a call than PyTorch's allocator knows of, which numpy or a
    library allocated. A lower bound; 0 within what pages and gaps make."""
    prepared_bytes: int | None = None
    """What `prepare` and the first calls left allocated: a cache of its own layout, masks, page tables,
    buffers. Inputs and outputs do not count."""
    prepared_unseen_bytes: int | None = None
    """CPU: by how much more the process grew meanwhile than PyTorch's allocator knows of, which numpy or a
    library keeps. Null where modules were imported, code was compiled, or a library is known to keep memory
    of its own; 0 within what pages and gaps make."""
    graph_pool_bytes: int | None = None
    """CUDA: memory that the captured graph of the calls keeps to itself."""
    process_bytes: int | None = None
    """Memory of the measuring process: on the device by NVML, or resident set size on a CPU."""
    device_bytes: int | None = None
    """Memory in use on the device by NVML, all processes."""
    unexplained_bytes: int | None = None
    """What the process holds beyond what the allocator reserved (CUDA: context, libraries), or beyond the
    inputs and what the case's arms have prepared (CPU: libraries, references, the buffer that flushes)."""

    # Energy
    energy_j_per_call: float | None = None
    """Energy of the device for one call, less what it draws when idle. Calls follow one another at once, so
    the caches are warm where a problem fits into them."""
    energy_j_per_token: float | None = None
    idle_power_w: float | None = None
    """What was subtracted: the device's power with nothing to do, measured when the run began."""
    energy_source: str | None = None
    """`nvml` or `rapl`: whose counter was read."""
    energy_window_s: float | None = None
    """Between the two readings of the counter."""
    energy_reason: str | None = None
    """Why there is no energy, though it was asked for."""

    # Conditions while it was timed
    clock_mhz: float | None = None
    """Median SM clock."""
    power_w: float | None = None
    """Median power of the GPU's board, idle looks left out."""
    temperature_c: float | None = None
    """Highest temperature of the device."""
    throttle_reasons: list[str] | None = None
    """NVML's clock event reasons that were active in any sample, idle apart."""
    background_load: float | None = None
    """Cores that processes other than the worker kept busy, on average; on CUDA, not known to be."""

    # Checks
    kernels: list[str] | None = None
    """Operators (CPU) or kernels (CUDA) that one call really ran, in order of first appearance."""
    num_launches: int | None = None
    """CUDA: kernels that one call launched, copies and fills among them, as the profiler counts them."""
    kernel_config: str | None = None
    """What an implementation that chooses among kernels took, with its numbers: `tuned`, `remembered` from an
    earlier tuning on this device, `default`, or `interpreted` (on a CPU, for correctness only)."""
    max_error: float | None = None
    """Largest absolute difference from the float64 reference."""
    error_budget: float | None = None
    """The largest `max_error` that counts as correct, derived from the dtype and the problem."""
    error_ratio: float | None = None
    """The worst error over what is allowed, by all criteria together: correct at 1 and below."""
    quantisation_error: float | None = None
    """Largest absolute difference that quantising K and V makes to the float64 reference: no implementation's
    error, and not part of `max_error`."""
    num_checked_queries: int | None = None
    """Query positions per sequence that the reference was computed for (all, where it is affordable)."""
    num_checked_heads: int | None = None
    """Training: KV heads, over all sequences, whose outputs and gradients the reference was computed for."""
    flags: list[str] = field(default_factory=list)
    """Doubts about the measurement, by name."""

    # Provenance
    seed: int | None = None
    measure: str | None = None
    started_at: str | None = None
    """UTC, ISO 8601."""
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"outcome": self.outcome.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """The inverse of `to_dict`. Raises `ValueError` naming a field that is missing or unknown."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"unknown record fields: {', '.join(unknown)}")
        try:
            return cls(**values | {"outcome": Outcome(values["outcome"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record: {error}") from error


RECORD_FIELDS = tuple(item.name for item in fields(Record))
"""Column order of every table of records."""
