"""Records of an imagined GPU with 3 TB/s: what expands K and V holds and moves all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest

from gqabench.reports import build_report
from gqabench.reports.figures import Drawing, LeftOut, draw_figures
from gqabench.reports.frames.tidy import tidy
from gqabench.results.record import RECORD_FIELDS, Outcome, Record

NUM_Q_HEADS, HEAD_DIM, ITEMSIZE = 32, 128, 2
READ_BYTES_PER_MS = 3.0e9
FLOP_PER_MS = 4.0e11
LAUNCH_MS = 0.006

IMPLS = {
    # name: (copies of expanded K and V in workspace, share of the read roof, share of the matrix roof)
    "repeat_kv": (1.0, 0.62, 0.25),
    "repeat_kv_sdpa": (1.0, 0.80, 0.60),
    "grouped_matmul": (0.0, 0.55, 0.22),
    "folded_sdpa": (0.0, 0.72, 0.45),
    "sdpa": (0.0, 0.70, 0.70),
    "sdpa_flash": (0.0, 0.88, 0.75),
    "flex": (0.0, 0.66, 0.55),
}
SCORES_IMPLS = {"repeat_kv", "grouped_matmul"}


def make_record(impl: str = "sdpa", **values: Any) -> Record:
    """A record of one arm; any field can be given, the rest follows from the shape."""
    shape = {"batch_size": 1, "kv_len": 4096, "num_kv_heads": 8, "phase": "decode"} | values
    batch_size, kv_len, num_kv_heads = shape["batch_size"], shape["kv_len"], shape["num_kv_heads"]
    q_len = shape.get("q_len", 1 if shape["phase"] == "decode" else kv_len)
    num_q_heads, head_dim = shape.get("num_q_heads", NUM_Q_HEADS), shape.get("head_dim", HEAD_DIM)
    group_size = num_q_heads // num_kv_heads
    cache = 2 * batch_size * kv_len * num_kv_heads * head_dim * ITEMSIZE
    output = batch_size * num_q_heads * q_len * head_dim * ITEMSIZE
    pairs = batch_size * (q_len * kv_len - q_len * (q_len - 1) // 2)
    copies, read_share, flop_share = IMPLS.get(impl, (0.0, 0.5, 0.5))
    scores = batch_size * num_q_heads * q_len * kv_len * 4 if impl in SCORES_IMPLS else 0
    expanded = round(copies * cache * group_size) if group_size > 1 else 0
    model_bytes, model_flops = cache + 2 * output, 4 * pairs * num_q_heads * head_dim
    moved = model_bytes + 2 * expanded + 3 * scores
    latency = LAUNCH_MS + max(moved / READ_BYTES_PER_MS / read_share, model_flops / FLOP_PER_MS / flop_share)
    problem = {
        "model": "llama3_8b", "workload": shape["phase"], "q_len": q_len, "num_q_heads": num_q_heads,
        "head_dim": head_dim, "group_size": group_size, "num_layers": 32, "dtype": "float16",
        "device": "cuda", "device_name": "Example GPU", "kv_cache_bytes_model": cache,
        "kv_cache_bytes_model_per_token": 2 * 32 * num_kv_heads * head_dim * ITEMSIZE,
        "kv_cache_bytes_model_all_layers": 32 * cache, "model_bytes": model_bytes, "model_flops": model_flops,
        "seed": 0, "measure": "standard",
    }  # fmt: skip
    measured = {
        "latency_ms": latency, "latency_ci_low_ms": latency * 0.985, "latency_ci_high_ms": latency * 1.02,
        "samples_ms": [latency * 0.98, latency, latency * 1.03], "num_processes": 1,
        "timing_method": "cuda_events", "cache_state": "cold",
        "tokens_per_s": batch_size * q_len / latency * 1e3,
        "achieved_gb_per_s": model_bytes / latency / 1e6, "achieved_tflop_per_s": model_flops / latency / 1e9,
        "roof": "read_gb_per_s",
        "roof_fraction": model_bytes / latency / READ_BYTES_PER_MS, "kv_cache_bytes": cache,
        "peak_workspace_bytes": output + expanded + scores + (65536 if impl == "sdpa_flash" else 0),
        "max_error": 4.1e-4, "error_budget": 2.0e-3, "kernels": [f"{impl}_kernel"],
    }  # fmt: skip
    identity = (
        f"{shape['phase']}-{batch_size}-{kv_len}-{num_kv_heads}-{shape.get('dtype')}-{shape.get('model')}"
    )
    ids = {
        "run_id": "run-a", "case_id": identity, "cell_id": f"{identity}-{impl}-{shape.get('environment')}",
        "impl": impl, "environment": "current", "outcome": Outcome.OK,
    }  # fmt: skip
    known = ids | problem | shape
    return Record(**(known if known["outcome"] != Outcome.OK else known | measured | values))


def to_frame(records: list[Record]) -> pd.DataFrame:
    """Records as `gqabench.load` gives them: one row a record."""
    return pd.DataFrame([record.to_dict() for record in records], columns=list(RECORD_FIELDS))


def sweep_records(phases: tuple[str, ...] = ("decode",), **values: Any) -> list[Record]:
    """3 numbers of KV heads, 3 contexts, 2 batch sizes, 7 impls.

    `flex` does not support MQA; in prefill, what keeps all scores runs out of memory.
    """
    records = []
    for phase in phases:
        contexts = (2048, 8192, 32768) if phase == "decode" else (512, 2048, 8192)
        for num_kv_heads in (32, 8, 1):
            for kv_len in contexts:
                for batch_size in (1, 16):
                    for impl in IMPLS:
                        shape = {"phase": phase, "num_kv_heads": num_kv_heads, "kv_len": kv_len}
                        records.append(swept_record(impl, **shape | {"batch_size": batch_size} | values))
    return records


def swept_record(impl: str, **shape: Any) -> Record:
    """One record of the sweep, with its outcome."""
    if impl == "flex" and shape["num_kv_heads"] == 1:
        reason = "flex: num_kv_heads=1 is not supported here"
        return make_record(impl, **shape, outcome=Outcome.UNSUPPORTED, reason=reason)
    largest = shape["kv_len"] in {8192, 32768} and shape["batch_size"] == 16 and shape["phase"] == "prefill"
    if impl in SCORES_IMPLS and largest:
        reason = "tried to allocate 128 GiB of 80 GiB"
        return make_record(impl, **shape, outcome=Outcome.OOM, reason=reason)
    flags = ["unstable"] if impl == "grouped_matmul" and shape["kv_len"] == 2048 else []
    return make_record(impl, **shape, flags=flags)


@pytest.fixture(scope="session")
def sweep_frame() -> pd.DataFrame:
    """A decode sweep of 126 records."""
    return to_frame(sweep_records())


@pytest.fixture(scope="session")
def two_phase_frame() -> pd.DataFrame:
    """Decode and prefill, with rows that ran out of memory."""
    return to_frame(sweep_records(("decode", "prefill")))


@pytest.fixture(scope="session")
def models_frame() -> pd.DataFrame:
    """Four models' shapes at one problem."""
    shapes = {
        "llama2_7b": (32, 32, 128, 32), "llama3_8b": (32, 8, 128, 32), "gemma_2b": (8, 1, 256, 18),
        "llama3_70b": (64, 8, 128, 80),
    }  # fmt: skip
    records = []
    for model, (num_q_heads, num_kv_heads, head_dim, num_layers) in shapes.items():
        for impl in IMPLS:
            shape = {"num_q_heads": num_q_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
            per_token = 2 * num_layers * num_kv_heads * head_dim * ITEMSIZE
            records.append(
                make_record(
                    impl,
                    model=model,
                    num_layers=num_layers,
                    kv_cache_bytes_model_per_token=per_token,
                    **shape,
                )
            )
    return to_frame(records)


@pytest.fixture(scope="session")
def header() -> dict[str, Any]:
    """The description of the run that the frames come from."""
    return {
        "run_id": "run-a",
        "status": "complete",
        "created_at": "2025-03-04T05:06:07+00:00",
        "command": "gqabench sweep study=default",
        "study": "default",
        "num_planned_cases": 18,
        "num_planned_records": 126,
        "seed": 0,
        "measure": "standard",
        "machine": {
            "system": {"os": "Linux", "python": "3.11.9", "cores": 16, "memory_bytes": 137438953472},
            "devices": [{"name": "Example GPU", "driver": "550.1", "memory_bytes": 85899345920}],
            "libraries": {"torch": "2.11.0", "cuda": "12.8"},
        },
    }


@dataclass(frozen=True)
class Drawn:
    """What drawing the figures of a tidy frame gave, and matplotlib's settings before and after."""

    frame: pd.DataFrame
    drawings: list[Drawing]
    left_out: list[LeftOut]
    settings: tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="session")
def sweep_drawn(sweep_frame: pd.DataFrame) -> Drawn:
    """Return the figures of the decode sweep: drawing them all takes seconds, so once."""
    frame = tidy(sweep_frame)
    with mpl.rc_context({"font.size": 17.0}):
        before = dict(mpl.rcParams)
        drawings, left_out = draw_figures(frame)
        return Drawn(frame, drawings, left_out, (before, dict(mpl.rcParams)))


@pytest.fixture(scope="session")
def sweep_report(
    sweep_frame: pd.DataFrame,
    sweep_drawn: Drawn,
    header: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the folder of the decode sweep's report, with the figures of `sweep_drawn`."""

    def already_drawn(frame: pd.DataFrame) -> tuple[list[Drawing], list[LeftOut]]:
        pd.testing.assert_frame_equal(frame, sweep_drawn.frame)
        return sweep_drawn.drawings, sweep_drawn.left_out

    folder = tmp_path_factory.mktemp("sweep") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gqabench.reports.page.draw_figures", already_drawn)
        assert build_report(sweep_frame, header, folder) == folder / "report.html"
    return folder


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures out of the pages of a test that looks at nothing of them."""
    monkeypatch.setattr("gqabench.reports.page.draw_figures", lambda frame: ([], []))


@pytest.fixture
def record() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def frame_of() -> Callable[[list[Record]], pd.DataFrame]:
    return to_frame


@pytest.fixture
def sweep() -> Callable[..., list[Record]]:
    return sweep_records


@pytest.fixture(scope="session")
def swept_many() -> pd.DataFrame:
    """10,080 records: three dtypes, six numbers of KV heads, seven contexts, eight batch sizes."""
    impls = [*IMPLS, "sdpa_cudnn", "triton_decode", "my_kernel"]
    return to_frame(
        [
            swept_record(
                impl, phase="decode", dtype=dtype, num_kv_heads=num_kv_heads, kv_len=kv_len,
                batch_size=batch_size,
            )
            for dtype in ("float16", "bfloat16", "float32")
            for num_kv_heads in (32, 16, 8, 4, 2, 1)
            for kv_len in (512, 1024, 2048, 4096, 8192, 16384, 32768)
            for batch_size in (1, 2, 4, 8, 16, 32, 64, 128)
            for impl in impls
        ]
    )  # fmt: skip
