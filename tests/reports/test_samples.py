"""Raw samples: their slices, the frame of one row a sample, and what a figure of them shows."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest
from matplotlib.image import imread

from gqabench.reports.figures.palette import impl_style
from gqabench.reports.figures.samples import MAX_MEMBERS, MAX_ROWS, draw, samples_figure
from gqabench.reports.figures.theme import theme
from gqabench.reports.frames.sample_panels import panel_rows
from gqabench.reports.frames.samples import Series, is_thinned, samples_frame, series_of, slice_sizes
from gqabench.results import Outcome
from gqabench.results.statistics.derive import timing_fields
from gqabench.results.store.baselines import MAX_SAMPLES, thin
from tests.results.made_up_runs import made_up_rows


def made_up(samples_ms: list[float], **changes: Any) -> dict[str, Any]:
    """A record of these samples."""
    return made_up_rows("run-a", 1)[0] | timing_fields(samples_ms) | changes


@pytest.mark.parametrize(
    ("num_samples", "fields", "expected"),
    [
        (6, {"slice_sizes": [1, 3, 2]}, [1, 3, 2]),
        (6, {"slice_sizes": [1, 3, 2], "calls_per_slice": 3}, [1, 3, 2]),  # the newer column wins
        (6, {"slice_sizes": [1, 3]}, None),  # of other samples than these
        (6, {"slice_sizes": None, "calls_per_slice": 3}, [3, 3]),
        (6, {"calls_per_slice": 1}, [1] * 6),
        (7, {"calls_per_slice": 3}, [3, 3, 1]),
        (6, {"calls_per_slice": None}, None),
        (6, {}, None),
        # a full series went on with one call a slice
        (2003, {"calls_per_slice": 100}, [100] * 20 + [1] * 3),
        (2005, {"calls_per_slice": 300}, [300] * 6 + [205]),
        (2102, {"calls_per_slice": 300}, [300] * 7 + [1] * 2),
    ],
)
def test_slices_are_those_that_were_measured(
    num_samples: int, fields: dict[str, Any], expected: list[int] | None
) -> None:
    row = {key: value for key, value in made_up([1.0] * num_samples).items() if "slice" not in key}
    assert slice_sizes(row | fields) == expected


def test_samples_that_a_baseline_kept_have_no_slices() -> None:
    samples = [1.0 + 0.01 * (place * 37 % 100) for place in range(100)]
    row = made_up(samples, calls_per_slice=5)
    thinned = row | {"samples_ms": thin(samples)}
    assert (is_thinned(row), is_thinned(thinned)) == (False, True)
    assert slice_sizes(row) == [5] * 20
    assert slice_sizes(thinned) is None
    assert slice_sizes(made_up(samples[:MAX_SAMPLES], calls_per_slice=5)) == [5] * 5


def test_a_row_for_each_sample_of_each_series() -> None:
    row = made_up([1.0, 2.0, 3.0, 4.0], calls_per_slice=2, warm_samples_ms=[0.5, 0.75], window=32)
    frame = samples_frame(series_of([row, made_up([9.0], impl="flex", slice_sizes=[1])]))
    of_sdpa = frame[frame["impl"] == "sdpa"]
    assert list(of_sdpa["series"]) == ["samples_ms"] * 4 + ["warm_samples_ms"] * 2
    assert list(of_sdpa["cache_state"]) == ["cold"] * 4 + ["warm"] * 2
    assert list(of_sdpa["index"]) == [0, 1, 2, 3, 0, 1]
    assert list(of_sdpa["slice"].dropna()) == [0, 0, 1, 1]
    assert list(of_sdpa["call_in_slice"].dropna()) == [0, 1, 0, 1]
    assert list(frame["latency_ms"]) == [1.0, 2.0, 3.0, 4.0, 0.5, 0.75, 9.0]
    assert list(frame["slice"].isna()) == [False] * 4 + [True] * 2 + [False]
    assert set(frame["run_id"]) == {"run-a"}


def test_unequal_slices_in_the_frame() -> None:
    frame = samples_frame(series_of([made_up([1.0, 2.0, 3.0], slice_sizes=[1, 2])]))
    assert frame[["slice", "call_in_slice"]].to_numpy().tolist() == [[0, 0], [1, 0], [1, 1]]


def test_settings_have_a_column_where_one_is_away_from_its_default() -> None:
    plain, windowed = made_up([1.0]), made_up([1.0], window=32)
    assert "window" not in samples_frame(series_of([plain]))
    frame = samples_frame(series_of([plain, windowed]))
    text = frame[["kv_len", "window", "model"]].to_csv(index=False)
    assert text == "kv_len,window,model\n64,,\n64,32,\n"  # whole numbers stay whole


def test_no_series_make_an_empty_frame_of_the_same_columns() -> None:
    failed = made_up_rows("run-a", 1, changes={0: {"outcome": Outcome.CRASH}})
    assert series_of(failed) == []
    assert list(samples_frame([])) == list(samples_frame(series_of([made_up([1.0])])))


def test_the_median_is_the_records_and_else_that_of_the_samples() -> None:
    row = made_up([1.0, 2.0, 3.0]) | {"latency_ms": 2.5, "latency_ci_low_ms": 2.0, "latency_ci_high_ms": 2.75}
    row |= {"graph_samples_ms": [4.0] * 6, "prefill_samples_ms": [7.0, 9.0]}
    cold, graph, prefill = series_of([row])
    assert (cold.median_ms, cold.interval_ms) == (2.5, (2.0, 2.75))
    assert (graph.cache_state, graph.median_ms, graph.interval_ms) == ("cold", 4.0, (4.0, 4.0))
    assert (prefill.cache_state, prefill.median_ms, prefill.interval_ms) == (None, 8.0, None)


def series(*rows: dict[str, Any]) -> list[Series]:
    return series_of(list(rows))


def test_runs_and_environments_of_a_cell_share_a_row_of_panels() -> None:
    first = made_up([1.0, 2.0], warm_samples_ms=[0.5])
    rows = panel_rows(
        series(
            first, first | {"run_id": "run-b"}, made_up([5.0], impl="flex"),
            made_up([5.0], impl="flex", environment="new"), made_up([7.0], kv_len=128),
        )
    )  # fmt: skip
    assert [row.title for row in rows] == [
        "sdpa, decode, batch 1, kv_len 64, heads 8/2 x 64, float32, cpu, cold caches",
        "sdpa, decode, batch 1, kv_len 64, heads 8/2 x 64, float32, cpu, warm caches",
        "flex, decode, batch 1, kv_len 64, heads 8/2 x 64, float32, cpu, cold caches",
        "sdpa, decode, batch 1, kv_len 128, heads 8/2 x 64, float32, cpu, cold caches",
    ]
    assert [[member.label for member in row.members] for row in rows] == [
        ["run-a", "run-b"], ["run-a", "run-b"], ["current", "new"], ["run-a"],
    ]  # fmt: skip


def test_warm_calls_of_one_run_stand_beside_those_of_another_and_not_beside_cold_ones() -> None:
    both = made_up([1.0], warm_samples_ms=[0.5], graph_samples_ms=[0.75])
    rows = panel_rows(series(both, made_up([0.5], cache_state="warm", run_id="run-b")))
    assert [row.title.rpartition("cpu, ")[2] for row in rows] == [
        "cold caches", "warm caches", "cold caches, graph_samples_ms",
    ]  # fmt: skip
    assert [[member.label for member in row.members] for row in rows] == [
        ["run-a"], ["run-a", "run-b"], ["run-a"],
    ]  # fmt: skip


def test_long_names_get_a_number_that_a_legend_has_room_for() -> None:
    (row,) = panel_rows(series(*(made_up([1.0], run_id=f"20261128-04074{n}-smoke-93f9") for n in range(2))))
    assert [member.name for member in row.members] == ["1", "2"]
    assert row.members[1].label == "2: 20261128-040741-smoke-93f9"


@pytest.mark.parametrize(
    ("samples", "covers"),
    [
        ([3.0], [3.0]),
        ([3.0] * 19 + [9.0], [3.0]),  # a spike would hide the rest
        ([2.0] * 14 + [7.0] * 6, [2.0, 7.0]),  # two groups are no outliers
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_the_axis_covers_all_but_what_is_far_from_everything(
    samples: list[float], covers: list[float]
) -> None:
    low, high = panel_rows(series(made_up(samples)))[0].limits_ms
    assert [value for value in sorted(set(samples)) if low <= value <= high] == covers


def test_runs_side_by_side_have_one_axis_for_both() -> None:
    (row,) = panel_rows(series(made_up([1.0, 1.5]), made_up([4.0, 4.5], run_id="run-b")))
    assert row.limits_ms == (1.0, 4.5)


def test_a_figure_shows_each_call_once_and_the_first_of_each_slice_apart() -> None:
    samples = [1.0, 1.1, 1.2, 1.3, 1.4, 1.1, 1.2, 9.0] + [1.2] * 12
    with theme():
        figure = draw(panel_rows(series(made_up(samples, calls_per_slice=4, flags=["unstable"]))))
    in_order, distribution = figure.axes
    others, firsts = (points.get_offsets().tolist() for points in in_order.collections)
    assert [place for place, _ in firsts] == [0, 4, 8, 12, 16]
    assert len(others) + len(firsts) == len(samples) - 1
    (beyond,) = [text.get_text() for text in in_order.texts]
    assert beyond == "1 call beyond, to 9.00 ms"
    assert in_order.get_title(loc="left").splitlines()[1:] == [
        "1.20 ms (1.20 – 1.20)", "20 calls in 5 slices", "flags: unstable",
    ]  # fmt: skip
    (step,) = distribution.lines
    assert step.get_color() == impl_style("sdpa").color
    assert (step.get_xdata()[[0, -1]].tolist(), step.get_ydata()[-1]) == ([0, 100], 9.0)
    assert in_order.get_ylabel() == "latency of a call (ms)"
    assert in_order.get_xlabel() == "call, in order of measuring"
    assert distribution.get_xlabel() == "calls at or below (%)"


@pytest.mark.parametrize("num_samples", [1, 6, 2000])
def test_series_of_any_length_are_drawn(num_samples: int) -> None:
    samples = [2.0 + 0.01 * (place * 37 % 11) for place in range(num_samples)]
    image = imread(io.BytesIO(samples_figure(series(made_up(samples, calls_per_slice=1)), ".png")))
    assert image.shape[1] > 1000
    assert image.min() < image.max()


def test_what_a_figure_has_no_room_for_is_refused() -> None:
    one = made_up([1.0])
    runs = [one | {"run_id": f"run-{number}"} for number in range(MAX_MEMBERS + 1)]
    cells = [one | {"kv_len": number} for number in range(1, MAX_ROWS + 2)]
    for rows, complaint in (
        (runs, "6 runs of one cell; "),
        (cells, "7 cells or series; "),
        ([], "no samples"),
    ):
        with pytest.raises(ValueError, match=complaint):
            samples_figure(series(*rows), ".png")
    with pytest.raises(ValueError, match=r"must end with \.png or \.svg"):
        samples_figure(series(one), ".gif")


def test_the_frame_round_trips_through_csv() -> None:
    frame = samples_frame(series(made_up([1 / 3, 2.0], calls_per_slice=2)))
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    assert again["latency_ms"].tolist() == frame["latency_ms"].tolist()
    assert list(again) == list(frame)
