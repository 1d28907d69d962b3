"""Quantised and paged caches from the command line to the record and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gqabench import results

IMPLS = ["grouped_matmul", "paged_grouped", "sliding_window", "sdpa_flash"]


@pytest.fixture(scope="module")
def run_folder(gqabench_in: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    finished = gqabench_in(
        folder,
        "sweep", "-m", "measure=smoke", "model=gqa_8_2", "kv_len=100", "window=24", "kv_dtype=null,int8",
        "page_size=null,16", f"impls=[{','.join(IMPLS)}]",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return folder / "results" / "runs" / "latest"


@pytest.fixture(scope="module")
def rows(run_folder: Path) -> pd.DataFrame:
    return results.load(run_folder)


def cell(rows: pd.DataFrame, impl: str, kv_dtype: str | None, page_size: int | None) -> Any:
    is_dtype = rows["kv_dtype"].isna() if kv_dtype is None else rows["kv_dtype"] == kv_dtype
    is_paged = rows["page_size"].isna() if page_size is None else rows["page_size"] == page_size
    [(_, row)] = rows[(rows["impl"] == impl) & is_dtype & is_paged].iterrows()
    return row


def test_what_serves_no_such_cache_says_so(rows: pd.DataFrame) -> None:
    for impl, kv_dtype, page_size in (
        ("grouped_matmul", None, 16),
        ("sliding_window", "int8", 16),
        ("sdpa_flash", "int8", None),
    ):
        row = cell(rows, impl, kv_dtype, page_size)
        assert row["outcome"] == "unsupported"
        assert row["reason"].startswith(f"page_size={page_size}: " if page_size else f"kv_dtype={kv_dtype}: ")
    assert (rows["outcome"] == "ok").sum() == 4 + 2 + 2 + 1


def test_cache_bytes_are_those_of_the_layout(rows: pd.DataFrame) -> None:
    """One sequence, 2 KV heads of width 64, K and V, 4 bytes or 1 and a scale; 100 tokens, a window of 24."""
    token = {None: 2 * 2 * 64 * 4, "int8": 2 * 2 * (64 + 4)}
    for kv_dtype, num_bytes in token.items():
        assert cell(rows, "grouped_matmul", kv_dtype, None)["kv_cache_bytes"] == 100 * num_bytes
        assert cell(rows, "sliding_window", kv_dtype, None)["kv_cache_bytes"] == 24 * num_bytes
        assert cell(rows, "paged_grouped", kv_dtype, 16)["kv_cache_bytes"] == 112 * num_bytes
        assert cell(rows, "paged_grouped", kv_dtype, 16)["kv_cache_bytes_model"] == 100 * num_bytes


def test_the_error_of_quantising_is_a_column_of_its_own(rows: pd.DataFrame) -> None:
    plain = cell(rows, "grouped_matmul", None, None)
    quantised = cell(rows, "grouped_matmul", "int8", None)
    assert pd.isna(plain["quantisation_error"])
    assert quantised["quantisation_error"] > 1e-3 > quantised["error_budget"] > quantised["max_error"]
    of_quantised = rows[(rows["kv_dtype"] == "int8") & (rows["outcome"] == "ok")]["quantisation_error"]
    assert of_quantised.nunique() == 1  # of the problem, not of an implementation


def test_what_a_timed_call_contains_is_recorded_and_told(rows: pd.DataFrame, run_folder: Path) -> None:
    assert cell(rows, "paged_grouped", "int8", 16)["timed_call"] == {
        "cache_append": False, "planning": False, "layout_conversion": "tiles", "dequantisation": "tiles",
        "kv_expansion": "no", "num_launches": None,
    }  # fmt: skip
    page = (run_folder / "report.md").read_text()
    assert "## What a timed call contains" in page
    assert "| paged_grouped | no | tiles | tiles | no | no |" in page
    assert "quantisation error" in page
