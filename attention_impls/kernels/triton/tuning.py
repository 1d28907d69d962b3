"""The fastest configuration of a kernel: timed once for each device and class of problems, and kept.

Results are kept in the folder `triton` of the user's cache folder, one JSON file each, under a hash of all
that they depend on: device, versions of Triton and PyTorch, class of problems, the source of this package.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import triton
from triton.errors import TritonError

from gqabench.attention_impls.cache_folder import user_cache_folder
from gqabench.attention_impls.problem import AttentionProblem

Config = TypeVar("Config")
Round = Callable[[Any], Sequence[Any]]
"""Maps the best configuration so far to those to try next, itself included"""

OFF_SWITCH = "GQABENCH_TUNING"
"""`GQABENCH_TUNING=off` in the environment: take the first candidate, as tests of correctness want."""


@dataclass(frozen=True)
class Choice(Generic[Config]):
    """The configuration to run, and how it was obtained."""

    config: Config
    source: str
    """`tuned` now, `remembered` from before, or `default` where nothing was timed"""
    autotune_ms: float | None
    """Time that choosing took; None where nothing was timed or looked up"""

    def describe(self, **more: object) -> str:
        """Format the configuration for the record: `source: key=value, ...`."""
        values = asdict(self.config) | more  # type: ignore[call-overload]
        return f"{self.source}: " + ", ".join(f"{key}={value}" for key, value in values.items())


def choose(
    config_class: type[Config],
    key: dict[str, object],
    first: Sequence[Config],
    rounds: Sequence[Round],
    time_ms: Callable[[Config], float],
) -> Choice[Config]:
    """Return the configuration kept for this key, or else time several rounds and keep the fastest.

    A configuration that does not compile or launch on this device is skipped, and a warning says why.
    """
    if os.environ.get(OFF_SWITCH) == "off":
        return Choice(first[0], "default", None)
    started = time.perf_counter()
    path = user_cache_folder() / "triton" / f"{_digest(key)}.json"
    if (kept := _read(path, key)) is not None:
        with suppress(TypeError):  # fields of another version
            if (config := config_class(**kept)) in _all_candidates(first, rounds):
                return Choice(config, "remembered", (time.perf_counter() - started) * 1e3)
    times_ms: dict[Config, float] = {}
    candidates = first
    for following in [*rounds, None]:
        for config in candidates:
            if config not in times_ms:
                times_ms[config] = _time_or_infinity(time_ms, config)
        best = min(times_ms, key=lambda config: times_ms[config])
        candidates = [] if following is None else following(best)
    if math.isinf(times_ms[best]):  # none of them runs on this device: launching says why
        return Choice(first[0], "default", (time.perf_counter() - started) * 1e3)
    try:
        _write(path, key, best, times_ms)
    except OSError as error:
        warnings.warn(f"{path}: {error.strerror}: the tuning result is not kept", stacklevel=2)
    return Choice(best, "tuned", (time.perf_counter() - started) * 1e3)


def _time_or_infinity(time_ms: Callable[[Config], float], config: Config) -> float:
    """Time a candidate; return infinity if Triton, its assembler or the driver refuses it."""
    try:
        return time_ms(config)
    except (TritonError, RuntimeError) as error:  # the compiler's passes raise the latter
        said = (str(error).splitlines() or [""])[0]
        warnings.warn(f"{config} cannot be used here: {type(error).__name__}: {said}", stacklevel=2)
        return math.inf


def _all_candidates(first: Sequence[Config], rounds: Sequence[Round]) -> set[Config]:
    """Return every configuration that the rounds can reach."""
    candidates = set(first)
    for following in rounds:
        candidates |= {config for best in candidates for config in following(best)}
    return candidates


def tuning_key(kernel: str, problem: AttentionProblem) -> dict[str, object]:
    """Return everything that the fastest configuration depends on. Lengths count by their power of two."""
    device = torch.device(problem.device)
    properties = torch.cuda.get_device_properties(device)
    lengths = sum(problem.kv_len_of(sequence) for sequence in range(problem.batch_size))
    return {
        "kernel": kernel,
        "device": properties.name,
        "num_processors": properties.multi_processor_count,
        "triton": triton.__version__,
        "torch": torch.__version__,
        "source": source_hash(),
        "batch_size": problem.batch_size.bit_length(),
        "tokens": lengths.bit_length(),
        "q_len": problem.q_len.bit_length(),
        "group_size": problem.group_size,
        "num_kv_heads": problem.num_kv_heads,
        "head_dim": problem.head_dim,
        "dtype": problem.dtype,
        "kv_dtype": problem.kv_dtype,
        "page_size": problem.page_size,
        "window": None if problem.window is None else problem.window.bit_length(),
        "has_soft_cap": problem.logits_soft_cap is not None,
        "is_ragged": problem.is_ragged,
        "is_causal": problem.causal,
    }


def source_hash() -> str:
    """Return a hash of every module of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _digest(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path, key: dict[str, object]) -> dict[str, Any] | None:
    """Read a kept configuration; return None if there is none, or if the file has another key."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(kept, dict) and kept.get("key") == key and isinstance(kept.get("config"), dict)
    return kept["config"] if is_ours else None


def _write(path: Path, key: dict[str, object], best: object, times_ms: dict[Config, float]) -> None:
    """Write in one step, so that a reader never sees half a file."""
    timed = [
        {"config": asdict(config), "ms": None if math.isinf(ms) else ms}  # type: ignore[call-overload]
        for config, ms in times_ms.items()
    ]
    kept = {"key": key, "config": asdict(best), "timed": timed}  # type: ignore[call-overload]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(kept, file, indent=1)
    Path(file.name).replace(path)
