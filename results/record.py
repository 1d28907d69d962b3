"""The record: what was measured for one arm on one problem in one process.

Each field is the one entry of its column, and each `axis` of its problem axis: types, units, formatters,
headings, glossary, facets and the sweep's schema follow from it. What was not measured is null, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from functools import partial
from typing import Any, TypedDict

from gqabench.results.entries import Compared, Panels, Role, Section, Shown, Unit, axis, column, entry_of

SCHEMA_VERSION = 3
"""2 added columns that may be null. 3 refuses what the columns exclude: see `record_faults`."""


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


class InvalidRecord(ValueError):
    """Values that no record can have. The message names each field, its value and what is valid."""


class TimedCallFields(TypedDict):
    """What a call contains, as the implementation declares it: see `attention_impls.contract.TimedCall`."""

    cache_append: bool | None
    planning: bool | None
    layout_conversion: str | None
    dequantisation: str | None
    kv_expansion: str | None
    num_launches: int | None


_identity = partial(column, Section.IDENTITY)
_problem = partial(column, Section.PROBLEM)
_time = partial(column, Section.TIME)
_rate = partial(column, Section.RATES)
_memory = partial(column, Section.MEMORY, unit=Unit.BYTES)
_energy = partial(column, Section.ENERGY)
_condition = partial(column, Section.CONDITIONS)
_check = partial(column, Section.CHECKS)
_provenance = partial(column, Section.PROVENANCE)

_IN_RESULTS = (Shown.RESULTS,)
_IN_MEMORY = (Shown.MEMORY,)
_IN_BOTH = (Shown.RESULTS, Shown.MEMORY)
_IN_SETUP = (Shown.SETUP,)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row. Raises `InvalidRecord` for values that its columns exclude."""

    run_id: str = _identity("The run's name.", default=MISSING)
    case_id: str = _identity(
        "Hash of the problem, workload and model: the same in every run that measures it.", default=MISSING
    )
    cell_id: str = _identity(
        "Hash of all that makes two measurements comparable: case, impl, code, libraries, driver, device.",
        default=MISSING,
    )
    impl: str = _identity("Name of the implementation.", default=MISSING)
    environment: str = _identity(
        "Name of the interpreter and packages that ran it; `current` is the one that runs gqabench.",
        default=MISSING,
    )
    outcome: Outcome = _identity(
        "How measuring ended: `ok`, `unsupported`, `incorrect`, `oom`, `timeout`, `crash` or `error`.",
        default=MISSING,
    )
    reason: str | None = _identity("Why the outcome is not `ok`.")

    model: str | None = axis(
        "Name of the `model/` preset that the shape starts from.",
        text="{number}", null_text="no model", label="model", plural="models", role=Role.NAME,
        panels=Panels.FIRST,
    )  # fmt: skip
    tp: int = axis(
        "Tensor-parallel ranks that the model's heads are divided over; one rank's heads are measured.",
        text="tp {number}", label="tensor-parallel ranks", plural="tensor-parallel degrees", role=Role.NAME,
        panels=Panels.FIRST, default=1,
    )  # fmt: skip
    workload: str = _problem(
        "What a call does: `prefill`, `decode`, `extend`, `layer`, `train` or `generate`.", default=MISSING
    )
    phase: str | None = _problem(
        "`prefill`, `decode` or `extend`, by the lengths; null where the values make no problem.",
        default=MISSING,
    )
    num_kv_heads: int = axis(
        "Key/value heads, of one tensor-parallel rank in a record.",
        text="{number} KV heads", label="KV heads", plural="numbers of KV heads", role=Role.SIZE,
        panels=Panels.FIRST, is_told_alone=False, default=MISSING,
    )  # fmt: skip
    kv_len: int = axis(
        "Keys visible in all, cached and new.",
        text="context {tokens}", label="context (tokens)", plural="contexts", role=Role.SIZE,
        panels=Panels.LAST, in_tokens=True, is_told_alone=False, default=MISSING,
    )  # fmt: skip
    batch_size: int = axis(
        "Sequences in the batch.",
        text="batch {number}", label="batch size (sequences)", plural="batch sizes", role=Role.SIZE,
        panels=Panels.FIRST, is_told_alone=False, default=MISSING,
    )  # fmt: skip
    q_len: int | None = axis(
        "New query tokens of each sequence. 1 is decode; as many as `kv_len`, prefill.",
        text="{tokens} new tokens", label="new tokens", plural="numbers of new tokens",
        role=Role.SIZE, panels=Panels.LAST, in_tokens=True, default=MISSING,
    )  # fmt: skip
    num_q_heads: int = axis(
        "Query heads, of one tensor-parallel rank in a record.",
        text="{number} query heads", label="query heads", plural="numbers of query heads", role=Role.SHAPE,
        panels=Panels.LAST, default=MISSING,
    )  # fmt: skip
    group_size: int | None = _problem(
        "Query heads that share one KV head: num_q_heads / num_kv_heads.", unit=Unit.COUNT, default=MISSING
    )
    head_dim: int = axis(
        "Width of one head.",
        text="head_dim {number}", label="width of a head", plural="head widths", role=Role.SHAPE,
        panels=Panels.LAST, default=MISSING,
    )  # fmt: skip
    num_layers: int | None = axis(
        "Layers of the model. One is measured; formulas of the whole cache use it.",
        text="{number} layers", label="layers", plural="numbers of layers",
        role=Role.SHAPE, panels=Panels.NEVER, is_told_alone=False,
    )  # fmt: skip
    dtype: str = axis(
        "Number format of queries, outputs and, unless `kv_dtype` says otherwise, the cache. A sweep's "
        "`auto` is bfloat16 on a GPU, float32 on a CPU.",
        text="{number}", label="dtype", plural="dtypes", default=MISSING,
    )  # fmt: skip
    kv_dtype: str | None = axis(
        "Number format of a quantised cache, `int8` or `float8_e4m3`; null keeps the cache in `dtype`.",
        text="cache {number}", null_text="cache in dtype", label="dtype of the cache", plural="cache dtypes",
    )  # fmt: skip
    window: int | None = axis(
        "Keys that a query sees with a sliding window, itself included; null is no window.",
        text="window {tokens}", label="window (tokens)", plural="windows",
        in_tokens=True,
    )  # fmt: skip
    logits_soft_cap: float | None = axis(
        "`c` maps each logit x to c * tanh(x / c) before the mask; null is no cap.",
        text="soft cap {number}", label="soft cap of the logits",
        plural="soft caps",
    )  # fmt: skip
    page_size: int | None = axis(
        "Tokens of one cache page; null leaves the layout to the implementation.",
        text="pages of {number}", null_text="not paged", label="page size (tokens)", plural="page sizes",
    )  # fmt: skip
    hf_cache: str | None = axis(
        "`workload=generate`: which of Hugging Face's caches, `dynamic` or `static`.",
        text="{number} cache", label="Hugging Face's cache",
        plural="caches of Hugging Face",
    )  # fmt: skip
    model_layers: int | None = axis(
        "`workload=generate`: layers of the model that is built and measured; null is all of `num_layers`.",
        text="model_layers {number}", label="layers built",
        plural="numbers of built layers",
    )  # fmt: skip
    intermediate_size: int | None = axis(
        "`workload=generate`: width of the MLP; null is two thirds of four times the model's width.",
        text="intermediate_size {number}", label="width of the MLP",
        plural="widths of the MLP",
    )  # fmt: skip
    device: str = _problem("`cpu`, `cuda` or `cuda:N`.", default=MISSING)
    device_name: str | None = _problem("Name of the device, as its driver gives it.")

    latency_ms: float | None = _time(
        "Median of `samples_ms`: of one attention call, one layer, one training step of attention or, in "
        "`workload=generate`, one decode step of a model.",
        unit=Unit.MS, heading="latency", shown=_IN_RESULTS, is_positive=True,
        compared=Compared(is_exact=False),
    )  # fmt: skip
    latency_ci_low_ms: float | None = _time(
        "The 95 % interval of that median, from order statistics: its lower end.",
        unit=Unit.MS, heading="interval", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    latency_ci_high_ms: float | None = _time("Upper end of that interval.", unit=Unit.MS, is_positive=True)
    latency_half_interval: float | None = _time(
        "Half the width of that interval, as a share of the latency: how far the number is in doubt.",
        unit=Unit.SHARE, heading="±", shown=_IN_RESULTS,
    )  # fmt: skip
    samples_ms: list[float] | None = _time("Time of each timed call, raw and in order.", unit=Unit.MS)
    calls_per_slice: int | None = _time(
        "Consecutive samples that were taken in one round, before the other arms had their turn: the most of "
        "any round.",
        unit=Unit.COUNT, is_positive=True,
    )  # fmt: skip
    slice_sizes: list[int] | None = _time(
        "How many successive samples each round gave, in order.", unit=Unit.COUNT
    )
    warm_slice_sizes: list[int] | None = _time(
        "The same of `warm_samples_ms`, where both states were asked for.", unit=Unit.COUNT
    )
    num_processes: int | None = _time(
        "Processes that the samples come from.", unit=Unit.COUNT, is_positive=True
    )
    timing_method: str | None = _time("The clock that timed the calls.")
    cache_state: str | None = _time(
        "`cold`: more than the last-level cache was flushed before each call; `warm`: it was not."
    )
    warm_latency_ms: float | None = _time(
        "Median time of the same calls without flushing the caches before each, where both states were asked "
        "for.",
        unit=Unit.MS, heading="warm", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    warm_latency_ci_low_ms: float | None = _time(
        "Lower end of the 95 % interval of `warm_latency_ms`.", unit=Unit.MS, is_positive=True
    )
    warm_latency_ci_high_ms: float | None = _time(
        "Upper end of that interval. The flags are those of either series.", unit=Unit.MS, is_positive=True
    )
    warm_samples_ms: list[float] | None = _time("Times of the calls with warm caches.", unit=Unit.MS)
    graph_latency_ms: float | None = _time(
        "CUDA: median time of the same calls captured as a graph, each after a flush of the L2, without "
        "launches between kernels: a check on the latency.",
        unit=Unit.MS, heading="graph", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    graph_samples_ms: list[float] | None = _time("CUDA: times of those calls, in order.", unit=Unit.MS)
    graph_reason: str | None = _time("CUDA: why the calls have no `graph_latency_ms`.")
    kernel_ms: float | None = _time(
        "CUDA: median of what the kernels of a call take by CUPTI, without the gaps between them.",
        unit=Unit.MS, heading="kernels", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    kernel_ms_source: str | None = _time("`cupti` or `torch.profiler`: the way in which CUPTI was asked.")
    eager_ms: float | None = _time(
        "CUDA: median wall time of a call and of waiting for it, launches included: what a caller sees.",
        unit=Unit.MS, heading="eager", shown=_IN_RESULTS, is_positive=True, compared=Compared(is_exact=False),
    )  # fmt: skip
    prefill_ms: float | None = _time(
        "`workload=generate`: median wall time of the model on the `kv_len - 1` tokens before the decode "
        "step, into a new cache.",
        unit=Unit.MS, heading="prefill", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    prefill_samples_ms: list[float] | None = _time(
        "`workload=generate`: wall times of those prefills, for a caller that waits; the first, which warms "
        "up, is left out.",
        unit=Unit.MS,
    )
    prepare_ms: float | None = _time(
        "Host time of `prepare`, all of what follows included. Not part of the latency.",
        unit=Unit.MS, heading="prepare, in all", shown=_IN_SETUP,
    )  # fmt: skip
    compile_ms: float | None = _time(
        "The part of `prepare` that the implementation calls compilation.",
        unit=Unit.MS, heading="compile", shown=_IN_SETUP,
    )  # fmt: skip
    autotune_ms: float | None = _time(
        "The part of `prepare` in which kernels were tried.",
        unit=Unit.MS, heading="autotune", shown=_IN_SETUP,
    )  # fmt: skip
    plan_ms: float | None = _time(
        "The part of `prepare` that planned splits and tables.",
        unit=Unit.MS, heading="plan", shown=_IN_SETUP,
    )  # fmt: skip
    first_call_ms: float | None = _time(
        "Host time of the first call.", unit=Unit.MS, heading="first call", shown=_IN_SETUP
    )
    timed_call: TimedCallFields | None = _time("What a call contains, as the implementation declares it.")
    num_threads: int | None = _time("Threads that a CPU call may use.", unit=Unit.COUNT, is_positive=True)

    tokens_per_s: float | None = _rate(
        "New tokens per second: `batch_size * q_len` over the latency. Of one layer; in `workload=generate`, "
        "of a model of `model_layers` layers.",
        unit=Unit.TOKENS_PER_S, heading="tokens/s", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    model_bytes: int | None = _rate(
        "Bytes that the problem must move at least once.", unit=Unit.BYTES, is_positive=True
    )
    model_flops: int | None = _rate(
        "Floating-point operations that the problem needs.", unit=Unit.FLOP, is_positive=True
    )
    achieved_gb_per_s: float | None = _rate(
        "Bytes that the problem needs at least, over the latency. GB is 10^9, GiB is 2^30.",
        unit=Unit.GB_PER_S, heading="GB/s", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    achieved_tflop_per_s: float | None = _rate(
        "Operations that the problem needs, over the latency.",
        unit=Unit.TFLOP_PER_S, heading="TFLOP/s", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    roof: str | None = _rate(
        "The measured ceiling that bounds this problem: `read_gb_per_s` or `matmul_tflop_per_s`."
    )
    roof_fraction: float | None = _rate(
        "Achieved rate as a share of the measured ceiling of this machine that bounds the problem: of "
        "reading memory or of multiplying matrices.",
        unit=Unit.SHARE, heading="% of roof", shown=_IN_RESULTS, is_positive=True,
        compared=Compared(
            is_exact=False, is_machine_independent=True, higher_is_better=True, is_instead_of_times=True
        ),
    )  # fmt: skip

    kv_cache_bytes_model: int | None = _memory(
        "Bytes of K and V of one layer, by the formula.",
        heading="cache, formula", shown=_IN_MEMORY, is_positive=True,
    )  # fmt: skip
    kv_cache_bytes_model_per_token: int | None = _memory(
        "Cache bytes of one token over all layers, by the formula.", is_positive=True
    )
    kv_cache_bytes_model_all_layers: int | None = _memory(
        "Cache bytes of all layers, by the formula.", is_positive=True
    )
    kv_cache_bytes: int | None = _memory(
        "Cache bytes of one layer as the implementation holds them.",
        heading="cache held", shown=_IN_BOTH,
        compared=Compared(is_exact=True, is_machine_independent=True),
    )  # fmt: skip
    prepared_bytes: int | None = _memory(
        "What `prepare` and the first calls left allocated: a cache of its own layout, masks, page tables, "
        "buffers. Inputs and outputs do not count.",
        heading="prepared", shown=_IN_MEMORY,
    )  # fmt: skip
    prepared_unseen_bytes: int | None = _memory(
        "CPU: by how much more the process grew meanwhile than PyTorch's allocator knows of, which numpy or "
        "a library keeps. Null where modules were imported, code was compiled, or a library is known to keep "
        "memory of its own; 0 within what pages and gaps make.",
        heading="prepared, unseen", shown=_IN_MEMORY,
    )  # fmt: skip
    peak_workspace_bytes: int | None = _memory(
        "Allocator peak of one call less what was resident before it: its output and all temporaries. On a "
        "CPU the sum of what the calling thread allocates: what it frees that was made before the call "
        "lowers nothing, and threads that an implementation starts itself are not seen.",
        heading="workspace", shown=_IN_BOTH,
        compared=Compared(is_exact=True, is_machine_independent=True, is_by_thread=True),
    )  # fmt: skip
    prefill_peak_workspace_bytes: int | None = _memory(
        "`workload=generate`: the same of a prefill; it makes its cache, which counts.",
        heading="prefill workspace", shown=_IN_RESULTS,
    )  # fmt: skip
    unseen_workspace_bytes: int | None = _memory(
        "CPU: by how much more the process grew for a call than PyTorch's allocator knows of, which numpy or "
        "a library allocated. A lower bound; 0 within what pages and gaps make.",
        heading="workspace unseen", shown=_IN_MEMORY,
    )  # fmt: skip
    allocator_allocated_bytes: int | None = _memory(
        "CUDA: what the allocator had handed out before the call.", heading="allocated", shown=_IN_MEMORY
    )
    allocator_peak_bytes: int | None = _memory(
        "CUDA: the most that the allocator had handed out during the call.",
        heading="allocator peak", shown=_IN_MEMORY,
    )  # fmt: skip
    allocator_reserved_bytes: int | None = _memory(
        "CUDA: what the allocator had taken from the device after the call.",
        heading="reserved", shown=_IN_MEMORY,
    )  # fmt: skip
    graph_pool_bytes: int | None = _memory(
        "CUDA: memory that the captured graph of the calls keeps to itself.",
        heading="graph pool", shown=_IN_MEMORY, compared=Compared(is_exact=True),
    )  # fmt: skip
    process_bytes: int | None = _memory(
        "Memory of the measuring process: on the device by NVML, or resident set size on a CPU.",
        heading="process", shown=_IN_MEMORY,
    )  # fmt: skip
    device_bytes: int | None = _memory(
        "Memory in use on the device by NVML, all processes.", heading="device", shown=_IN_MEMORY
    )
    unexplained_bytes: int | None = _memory(
        "What the process holds beyond what the allocator reserved (CUDA: context, libraries), or beyond the "
        "inputs and what the case's arms have prepared (CPU: libraries, references, the flushing buffer).",
        heading="unexplained", shown=_IN_MEMORY,
    )  # fmt: skip

    energy_j_per_call: float | None = _energy(
        "Energy of the device for one call, less what it draws when idle. Calls follow one another at once, "
        "so the caches are warm where a problem fits into them.",
        unit=Unit.JOULES, heading="energy per call", shown=_IN_RESULTS, compared=Compared(is_exact=False),
        is_positive=True,
    )  # fmt: skip
    energy_j_per_token: float | None = _energy(
        "The same for one new token.",
        unit=Unit.JOULES, heading="energy per token", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    idle_power_w: float | None = _energy(
        "What was subtracted: the device's power with nothing to do, measured when the run began.",
        unit=Unit.WATTS,
    )
    energy_source: str | None = _energy("`nvml` or `rapl`: whose counter was read.")
    energy_window_s: float | None = _energy("Between the two readings of the counter.", unit=Unit.S)
    energy_reason: str | None = _energy("Why there is no energy, though it was asked for.")

    clock_mhz: float | None = _condition("Median SM clock while it was timed.", unit=Unit.MHZ)
    power_w: float | None = _condition(
        "Median power of the GPU's board, idle looks left out.", unit=Unit.WATTS
    )
    temperature_c: float | None = _condition("Highest temperature of the device.", unit=Unit.CELSIUS)
    throttle_reasons: list[str] | None = _condition(
        "NVML's clock event reasons that were active in any sample, idle apart."
    )
    background_load: float | None = _condition(
        "Cores that were kept busy on average by anything but the calls: other processes, this run's other "
        "workers, and threads that other arms left in the same worker.",
        unit=Unit.CORES,
    )
    shared_cores_with: list[str] | None = _condition(
        "What of this run itself was busy while the calls were timed: arms by their threads, environments by "
        "their workers, `gqabench` for the process that waits. Null where nothing was."
    )
    huge_page_share: float | None = _condition(
        "CPU: the share of the worker's large memory, in whole stretches of 2 MiB, that was moved to huge "
        "pages before timing. Null with `measure.huge_pages=false`, from workers of older revisions, and "
        "where the system cannot (Linux 6.1 and newer can).",
        unit=Unit.RATIO,
    )

    kernels: list[str] | None = _check(
        "Operators (CPU) or kernels (CUDA) that one call really ran, in order of first appearance."
    )
    num_launches: int | None = _check(
        "CUDA: kernels that one call launched, copies and fills among them, as the profiler counts them.",
        unit=Unit.COUNT,
    )
    kernel_config: str | None = _check(
        "What an implementation that chooses among kernels took, with its numbers: `tuned`, `remembered` "
        "from an earlier tuning on this device, `default`, or `interpreted` (on a CPU, for correctness only)."
    )
    error_ratio: float | None = _check(
        "The worst error over what is allowed, by all criteria together: correct at 1 and below.",
        unit=Unit.RATIO, heading="error ratio", shown=_IN_RESULTS,
    )  # fmt: skip
    max_error: float | None = _check(
        "Largest absolute difference from the float64 reference; a report shows `error_budget` beside it.",
        unit=Unit.ABSOLUTE_ERROR, heading="error / budget", shown=_IN_RESULTS,
    )  # fmt: skip
    error_budget: float | None = _check(
        "The largest `max_error` that counts as correct, derived from the dtype and the problem.",
        unit=Unit.ABSOLUTE_ERROR,
    )
    quantisation_error: float | None = _check(
        "Largest absolute difference that quantising K and V makes to the float64 reference: no "
        "implementation's error, and not part of its error ratio.",
        unit=Unit.ABSOLUTE_ERROR, heading="quantisation error", shown=_IN_RESULTS,
    )  # fmt: skip
    num_checked_queries: int | None = _check(
        "Query positions per sequence whose outputs were checked against the reference.",
        unit=Unit.COUNT, heading="checked queries", shown=_IN_RESULTS, is_positive=True,
    )  # fmt: skip
    num_checked_heads: int | None = _check(
        "Training: KV heads, over all sequences, whose outputs and gradients were checked against the "
        "reference.",
        unit=Unit.COUNT, is_positive=True,
    )  # fmt: skip
    flags: list[str] = _check(
        "Doubts about the measurement, by name.", factory=list, heading="flags", shown=_IN_RESULTS
    )

    seed: int | None = _provenance("Seed of the inputs and of the order of rounds.")
    measure: str | None = _provenance("Name of the `measure/` preset.")
    started_at: str | None = _provenance("When the record was made: UTC, ISO 8601.")
    schema_version: int = _provenance("Version of this schema.", default=SCHEMA_VERSION)

    def __post_init__(self) -> None:
        if faults := record_faults(vars(self)):
            raise InvalidRecord("; ".join(faults))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; lists and objects are copies."""
        values = {name: copy(value) for name, value in vars(self).items()}
        return values | {"outcome": self.outcome.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """Return the record that `to_dict` gave `values` of. Raises `ValueError` naming what is wrong."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"unknown record fields: {', '.join(unknown)}")
        try:
            return cls(**values | {"outcome": Outcome(values["outcome"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record: {error}") from error


RECORD_FIELDS = tuple(item.name for item in fields(Record))
"""Column order of every table of records."""

POSITIVE_FIELDS = tuple(item.name for item in fields(Record) if entry_of(item).is_positive)
"""Columns whose measured values are never 0."""

LATENCY_FIELDS = (
    "latency_ms", "latency_ci_low_ms", "latency_ci_high_ms", "latency_half_interval", "samples_ms",
)  # fmt: skip
"""What only `ok` carries."""


def record_faults(values: Mapping[str, Any]) -> list[str]:
    """Return what a record's values have that its columns exclude, one phrase each; empty for a record.

    `ok` has a latency; every other outcome has a reason and nothing that only `ok` carries; a column whose
    measured values are positive is never 0, which would stand for "not measured"; every number is finite.
    Fields that are not given count as null.
    """
    outcome = values.get("outcome")
    faults = [
        f"{name}={str(value)[:40]}: must be finite, or null where it was not measured"
        for name, value in values.items()
        if not _is_finite(value)
    ]
    if outcome == Outcome.OK:
        if values.get("latency_ms") is None:
            faults.append("outcome=ok: needs a latency_ms")
    else:
        carried = [name for name in LATENCY_FIELDS if values.get(name) is not None]
        faults += [f"{name}={values[name]}: must be null where outcome={outcome}" for name in carried]
        if not (values.get("reason") or "").strip():
            faults.append(f"outcome={outcome}: needs a reason")
    for name in POSITIVE_FIELDS:
        value = values.get(name)
        if isinstance(value, int | float) and value <= 0:
            faults.append(f"{name}={value}: must be positive, or null where it was not measured")
        elif value is not None and not isinstance(value, int | float):
            faults.append(f"{name}={value!r}: must be a number")
    return faults


def _is_finite(value: Any) -> bool:
    """Return whether a value is not, and does not hold, a number that JSON has no way to write."""
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
