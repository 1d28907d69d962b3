"""Figures by their frames and their axes, not by their pixels."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from gqabench.reports.figures import (
    FIGURES,
    Drawing,
    FigureData,
    cache_bars,
    cache_lines,
    draw_figures,
    frontier,
    kv_heads,
    latency,
    models,
    ranking,
    registry,
    roof_share,
    speed_up,
    throughput,
    workspace,
)
from gqabench.reports.figures.palette import impl_style
from gqabench.reports.figures.registry import MODULES, prepare_figures
from gqabench.reports.figures.spec import NotDrawn
from gqabench.reports.figures.theme import theme
from gqabench.reports.frames.tidy import tidy
from gqabench.results.record import Outcome


def drawn(module, data, name="draw"):
    with theme():
        figure = getattr(module, name)(data)
        figure.draw_without_rendering()
    return figure


def test_every_module_with_a_figure_is_on_the_page():
    folder = Path(registry.__file__).parent
    with_figure = {path.stem for path in folder.glob("*.py") if "\nFIGURE = " in path.read_text()}
    assert sorted(MODULES) == sorted(with_figure)


def test_every_figure_has_its_own_name_and_knows_those_that_stand_for_it():
    assert len({spec.name for spec in FIGURES}) == len(FIGURES)
    names = {spec.name for spec in FIGURES}
    assert all(set(spec.instead) <= names for spec in FIGURES)


def test_a_figure_without_data_is_left_out_and_nothing_else_is_changed(sweep_drawn, sweep_frame):
    before, after = sweep_drawn.settings
    assert before == after
    pd.testing.assert_frame_equal(sweep_drawn.frame, tidy(sweep_frame))
    assert {drawing.name for drawing in sweep_drawn.drawings} == {
        "kv_cache", "latency_by_kv_heads", "workspace", "latency_decode", "throughput_decode",
        "frontier_decode", "roof_share_decode", "speed_up_decode",
    }  # fmt: skip
    assert [(one.title, one.reason) for one in sweep_drawn.left_out] == [
        ("Models: cache of one token, and latency", "only one model was planned: llama3_8b")
    ]


def test_no_row_of_another_outcome_is_drawn_as_measured(two_phase_frame):
    frame = tidy(two_phase_frame)
    before = frame.copy(deep=True)
    for spec, _, data in prepare_figures(frame):
        if isinstance(data, FigureData) and spec.name not in {"kv_cache", "kv_cache_by_heads", "models"}:
            assert set(data.frame["outcome"]) == {"ok"}, spec.name
    pd.testing.assert_frame_equal(frame, before)


def test_cache_lines_are_the_formula_and_markers_what_is_held(sweep_frame):
    data = cache_lines.prepare(tidy(sweep_frame))
    assert isinstance(data, FigureData)
    assert "falls by exactly 32×" in data.caption
    assert "All measured caches hold exactly" in data.caption
    assert data.note == "Drawn: batch 16. Also measured: batch 1."
    figure = drawn(cache_lines, data)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "context (tokens)"
    assert "(bytes)" in axes.get_ylabel()
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert {"32 KV heads (MHA)", "8 (GQA)", "1 (MQA)"} <= {text.get_text() for text in axes.texts}
    assert all(label.get_text().endswith("iB") for label in axes.get_yticklabels())


def test_a_failed_row_has_a_cache_line_but_no_marker(record, frame_of):
    rows = [record("sdpa", kv_len=1024), record("sdpa", kv_len=2048, outcome=Outcome.OOM, reason="memory")]
    frame = frame_of(rows)
    frame.loc[1, "kv_cache_bytes"] = 1
    data = cache_lines.prepare(tidy(frame))
    assert isinstance(data, FigureData)
    assert data.frame["kv_cache_bytes_model"].notna().all()
    assert list(data.frame["kv_cache_bytes"].isna()) == [False, True]


def test_a_cache_beside_the_formula_is_told(record, frame_of):
    held = [record("sdpa", kv_len=length) for length in (1024, 2048)]
    padded = [
        record("flex", kv_len=length, kv_cache_bytes=2 * record(kv_len=length).kv_cache_bytes)
        for length in (1024, 2048)
    ]
    data = cache_lines.prepare(tidy(frame_of(held + padded)))
    assert isinstance(data, FigureData)
    assert "flex 2×" in data.caption


@pytest.mark.parametrize(
    ("prepare", "draw", "unit"),
    [
        (latency.FIGURE.prepare, latency.FIGURE.draw, "(ms)"),
        (throughput.FIGURE.prepare, throughput.FIGURE.draw, "(tokens/s)"),
    ],
)
def test_lines_have_units_and_the_colours_of_their_impls(sweep_frame, prepare, draw, unit):
    data = prepare(tidy(sweep_frame))
    assert isinstance(data, FigureData)
    with theme():
        figure = draw(data)
    assert unit in figure.axes[0].get_ylabel()
    first = data.facets.panel(data.frame, data.facets.rows[0], data.facets.columns[0])
    colors = {to_hex(line.get_color()) for line in figure.axes[0].lines if len(line.get_xdata())}
    assert colors == {impl_style(impl).color.lower() for impl in first["impl"]}


def test_a_colour_does_not_depend_on_who_else_is_there(sweep_frame):
    frame = tidy(sweep_frame)
    with theme():
        alone = latency.FIGURE.draw(latency.FIGURE.prepare(frame[frame["impl"] == "flex"]))
    colors = {to_hex(line.get_color()) for axes in alone.axes for line in axes.lines if len(line.get_xdata())}
    assert colors == {impl_style("flex").color.lower()}


def test_lines_need_two_contexts_or_batches(record, frame_of):
    one = latency.FIGURE.prepare(tidy(frame_of([record("sdpa"), record("flex")])))
    assert one == NotDrawn("only one context and one batch size were measured")
    batches = latency.FIGURE.prepare(tidy(frame_of([record(batch_size=1), record(batch_size=8)])))
    assert isinstance(batches, FigureData)
    assert batches.extras["x"] == "batch_size"


def test_relative_latency_is_one_for_mha_and_below_where_nothing_is_expanded(sweep_frame):
    data = kv_heads.prepare(tidy(sweep_frame))
    assert isinstance(data, FigureData)
    mha = data.frame[data.frame["num_kv_heads"] == 32]
    assert (mha["relative_latency"] == 1).all()
    mqa = data.frame[(data.frame["num_kv_heads"] == 1) & (data.frame["kv_len"] == 32768)].set_index("arm")
    assert mqa.loc["sdpa_flash", "relative_latency"] < 0.1
    assert mqa.loc["repeat_kv", "relative_latency"] > 1
    assert "which need as much workspace as the cache of MHA" in data.caption
    figure = drawn(kv_heads, data)
    assert figure.axes[0].get_xlim()[0] > figure.axes[0].get_xlim()[1]  # MHA at the left


def test_without_mha_nothing_is_relative_to_it(sweep_frame):
    frame = tidy(sweep_frame)
    missing = kv_heads.prepare(frame[frame["num_kv_heads"] != 32])
    assert missing == NotDrawn("nothing was measured with as many KV heads as query heads (MHA)")


def test_workspace_bars_show_expansion_at_the_size_of_mha(sweep_frame):
    data = workspace.prepare(tidy(sweep_frame))
    assert isinstance(data, FigureData)
    assert data.extras["expanding"] == ["repeat_kv", "repeat_kv_sdpa"]
    assert data.extras["arms"][:2] == ["repeat_kv", "repeat_kv_sdpa"]
    mqa = data.frame[data.frame["num_kv_heads"] == 1].set_index("arm")
    mha_cache = mqa["kv_cache_bytes_model"] * 32
    assert mqa.loc["repeat_kv", "peak_workspace_bytes"] >= mha_cache["repeat_kv"]
    assert mqa.loc["sdpa", "peak_workspace_bytes"] < 0.01 * mha_cache["sdpa"]
    figure = drawn(workspace, data)
    assert all("(bytes)" in axes.get_xlabel() for axes in figure.axes)
    assert [axes.get_title(loc="left").strip() for axes in figure.axes][-1] == "1 KV head (MQA)"


def test_speed_up_is_one_for_the_base_and_missing_where_not_measured(sweep_frame):
    data = speed_up.prepare(tidy(sweep_frame))
    assert isinstance(data, FigureData)
    assert data.title == "Speed-up over repeat_kv, decode"
    table = speed_up.heat_table(data)
    assert np.allclose(table.loc["repeat_kv"], 1)
    assert table.shape == (7, 18)
    assert [column[0] for column in table.columns] == [32] * 6 + [8] * 6 + [1] * 6
    assert table.loc["flex", 1].isna().all()
    texts = {text.get_text() for text in drawn(speed_up, data).axes[0].texts}
    assert {"×1.0", "–", "8 KV heads (GQA)"} <= texts


def test_without_a_known_base_the_slowest_is_the_base(record, frame_of):
    frame = tidy(frame_of([record("fast", latency_ms=1.0), record("slow", latency_ms=3.0)]))
    data = speed_up.prepare(frame)
    assert isinstance(data, FigureData)
    assert data.extras["base"] == "slow"
    assert list(speed_up.heat_table(data).loc["fast"]) == [3.0]


def test_models_are_ordered_by_what_a_token_costs(models_frame):
    data = models.prepare(tidy(models_frame))
    assert isinstance(data, FigureData)
    assert data.extras["models"] == ["llama2_7b", "llama3_70b", "llama3_8b", "gemma_2b"]
    # llama2_7b: 2 * 32 layers * 32 heads * 128 * 2 bytes = 512 KiB; gemma_2b: 2 * 18 * 1 * 256 * 2 = 18 KiB
    assert data.caption.startswith(
        "One token costs llama2_7b 512 KiB of cache over all layers, gemma_2b 18 KiB"
    )
    figure = drawn(models, data)
    assert "(bytes)" in figure.axes[0].get_xlabel()
    assert "(ms)" in figure.axes[1].get_xlabel()


def test_ranking_has_the_fastest_on_top(record, frame_of):
    frame = tidy(frame_of([record("repeat_kv"), record("sdpa_flash"), record("grouped_matmul")]))
    data = ranking.prepare(frame)
    assert isinstance(data, FigureData)
    assert data.extras["arms"] == ["sdpa_flash", "grouped_matmul", "repeat_kv"]
    labels = [label.get_text() for label in drawn(ranking, data).axes[0].get_yticklabels()]
    assert labels == data.extras["arms"]


def test_the_same_frame_gives_the_same_files(record, frame_of):
    frame = tidy(frame_of([record("sdpa"), record("flex")]))
    drawings, _ = draw_figures(frame)
    assert {drawing.name for drawing in drawings} >= {"workspace", "ranking_decode", "speed_up_decode"}
    assert draw_figures(frame)[0] == drawings


def test_a_figure_is_laid_out_once_and_drawn_once_for_each_of_its_files(record, frame_of, monkeypatch):
    """Matplotlib by itself lays a figure out anew for each file, and draws it once more to do so."""
    done = []
    for owner, name in ((ConstrainedLayoutEngine, "execute"), (Figure, "draw")):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda self, *args, of=original, name=name: (done.append(name), of(self, *args))[1]
        )
    frame = tidy(frame_of([record("sdpa"), record("flex")]))
    (stage_data,) = (found for found in prepare_figures(frame) if found[0].name == "ranking")
    drawing = registry._drawing(*stage_data)
    assert drawing.png.startswith(b"\x89PNG") and b"<svg" in drawing.svg
    assert done == ["execute", "draw", "draw"]


def test_a_large_sweep_is_drawn_within_caps(swept_many, two_phase_frame):
    assert len(swept_many) >= 10_000
    for many in (swept_many, two_phase_frame):
        for spec, stage, data in prepare_figures(tidy(many)):
            if isinstance(data, NotDrawn):
                continue
            assert data.facets.num_panels <= 8, (spec.name, stage)
            assert data.frame["arm"].nunique() <= 20
            assert len(data.frame) <= 1000
            assert many is two_phase_frame or data.note.startswith("Drawn: "), spec.name
    assert sum(4 if spec.per_stage else 1 for spec in FIGURES) < 30


@pytest.fixture
def unsaved(monkeypatch):
    """Draw nothing: what is left out, and why, is known from what the figures are to show."""
    nothing = Drawing("", "", "", "", b"", b"")
    monkeypatch.setattr(registry, "_drawing", lambda spec, stage, data: nothing)


def default_like(record, dtypes=("float32",)):
    """Decode of one model at three numbers of KV heads, three contexts and two batch sizes."""
    return [
        record(impl, num_kv_heads=heads, kv_len=length, batch_size=size, dtype=dtype)
        for impl in ("repeat_kv", "sdpa")
        for heads in (32, 8, 1)
        for length in (512, 2048, 8192)
        for size in (1, 4)
        for dtype in dtypes
    ]


@pytest.mark.usefixtures("unsaved")
def test_reasons_are_true_and_a_figure_with_a_substitute_is_not_missed(record, frame_of):
    _, left_out = draw_figures(tidy(frame_of(default_like(record))))
    assert {one.title: one.reason for one in left_out} == {
        "Models: cache of one token, and latency": "only one model was planned: llama3_8b"
    }
    no_roofs = frame_of([record("sdpa", roof=None, roof_fraction=None)])
    _, left_out = draw_figures(tidy(no_roofs))
    assert {one.title: one.reason for one in left_out} == {
        "KV cache against context": "only context 4K was planned",
        "KV cache by number of KV heads": "only 8 KV heads were planned",
        "Models: cache of one token, and latency": "only one model was planned: llama3_8b",
        "Who gains from fewer KV heads": "nothing was measured with as many KV heads as query heads (MHA)",
        "Workspace beside the cache": "the workspace of one row was measured",
        "Latency": "only one context and one batch size were measured",
        "Throughput": "only one context and one batch size were measured",
        "Latency by implementation": "only one latency was measured",
        "What a larger batch gives and costs": (
            "no two numbers of KV heads were measured at two batch sizes each"
        ),
        "Share of the roof": "no row has a measured share of the roof",
        "Speed-up": "only one implementation was measured: sdpa",
    }


def test_bars_are_left_out_for_the_number_of_contexts_not_of_heads(record, frame_of):
    reason = cache_bars.prepare(tidy(frame_of(default_like(record))))
    assert reason == NotDrawn("3 contexts were planned, and bars show one")


@pytest.mark.usefixtures("unsaved")
def test_a_stage_that_lacks_a_figure_is_named(record, frame_of):
    decode = [record("sdpa", kv_len=length) for length in (512, 2048)]
    frame = frame_of([*decode, record("sdpa", phase="prefill")])
    left_out = {one.title: one.reason for one in draw_figures(tidy(frame))[1]}
    assert left_out["Latency, prefill"] == "only one context and one batch size were measured"
    assert "Latency" not in left_out


@pytest.mark.parametrize("prepare", [latency.FIGURE.prepare, throughput.FIGURE.prepare])
def test_a_caption_compares_one_dtype_and_names_it(record, frame_of, prepare):
    fast_half = [
        record("sdpa", phase="prefill", kv_len=length, dtype="bfloat16", latency_ms=0.5, roof=None)
        for length in (512, 2048)
    ]
    frame = frame_of(
        [
            record(impl, phase="prefill", kv_len=length, dtype=dtype)
            for impl in ("sdpa", "repeat_kv")
            for length in (512, 2048)
            for dtype in ("float32", "bfloat16")
            if (impl, dtype) != ("sdpa", "bfloat16")
        ]
        + fast_half
    )
    data = prepare(tidy(frame))
    assert isinstance(data, FigureData)
    assert data.caption.startswith("At context 2K, batch 1, 8 KV heads (GQA) and float32, sdpa ")
    rows = frame[(frame["dtype"] == "float32") & (frame["kv_len"] == 2048)].set_index("impl")["latency_ms"]
    assert f"{rows['repeat_kv'] / rows['sdpa']:.1f}×" in data.caption


def test_a_caption_names_the_model_where_there_are_several(models_frame):
    data = speed_up.prepare(tidy(models_frame))
    assert isinstance(data, FigureData)
    assert re.search(r"with 8 KV heads \(GQA\), context 4K, batch 1 and llama3_70b\.", data.caption)


def test_no_caption_claims_a_winner_within_the_intervals(record, frame_of):
    near = [record("sdpa", latency_ms=1.0, latency_ci_low_ms=0.9, latency_ci_high_ms=1.2)]
    near += [record("flex", latency_ms=1.1, latency_ci_low_ms=1.0, latency_ci_high_ms=1.3)]
    far = record(
        "repeat_kv", latency_ms=9.0, latency_ci_low_ms=2.0, latency_ci_high_ms=30.0, flags=["unstable"]
    )
    data = ranking.prepare(tidy(frame_of([*near, far])))
    assert isinstance(data, FigureData)
    assert data.caption == (
        "With 8 KV heads (GQA), sdpa and flex are fastest, within their intervals, with 1 ms and 1.1 ms; "
        "repeat_kv takes 9 ms (unstable), 9× as long as sdpa."
    )


def test_speed_up_prefers_pairs_without_flags_and_counts_as_slower_only_what_is(record, frame_of):
    rows = [
        record("repeat_kv", kv_len=512, latency_ms=10.0, latency_ci_low_ms=9.0, latency_ci_high_ms=11.0),
        record("sdpa", kv_len=512, latency_ms=5.0, latency_ci_low_ms=4.9, latency_ci_high_ms=5.1),
        record("flex", kv_len=512, latency_ms=10.5, latency_ci_low_ms=9.5, latency_ci_high_ms=12.0),
        record("repeat_kv", kv_len=1024, latency_ms=88.0, latency_ci_high_ms=99.0, flags=["unstable"]),
        record("flex", kv_len=1024, latency_ms=120.0, latency_ci_low_ms=110.0),
        record("sdpa", kv_len=1024, latency_ms=2.0, latency_ci_low_ms=1.9, latency_ci_high_ms=2.1),
    ]
    data = speed_up.prepare(tidy(frame_of(rows)))
    assert isinstance(data, FigureData)
    assert data.caption.startswith("The largest speed-up without flags over repeat_kv is 2×: sdpa with ")
    assert data.caption.endswith(
        " 1 of 4 cells are slower than repeat_kv, beyond the intervals (1 of them in doubt)."
    )
    doubtful = speed_up.prepare(tidy(frame_of(rows[3:])))
    assert isinstance(doubtful, FigureData)
    assert "is 44× (unstable): sdpa" in doubtful.caption


def test_roof_shares_are_lines_over_contexts_and_bars_for_one_problem(sweep_frame, record, frame_of):
    data = roof_share.prepare(tidy(sweep_frame))
    assert isinstance(data, FigureData)
    assert data.title == "Share of the read roof, decode"
    figure = drawn(roof_share, data)
    assert "(%)" in figure.axes[0].get_ylabel()
    assert figure.axes[0].get_ylim()[0] == 0
    one = roof_share.prepare(tidy(frame_of([record("sdpa"), record("repeat_kv")])))
    assert isinstance(one, FigureData)
    assert re.search(r"sdpa reaches \d+ % and repeat_kv reaches \d+ % of the read roof\.$", one.caption)
    assert "(%)" in drawn(roof_share, one).axes[0].get_xlabel()


def test_roof_shares_of_two_roofs_are_not_mixed(record, frame_of):
    rows = [record("sdpa", kv_len=length) for length in (512, 1024, 2048)]
    rows.append(record("sdpa", kv_len=4096, roof="matmul_tflop_per_s", roof_fraction=0.4))
    data = roof_share.prepare(tidy(frame_of(rows)))
    assert isinstance(data, FigureData)
    assert set(data.frame["roof"]) == {"read_gb_per_s"}
    assert "Also measured: context 4K" in data.note


def test_the_frontier_is_of_the_fastest_at_each_batch_and_says_what_fits(record, frame_of):
    """Of 16 and 4 KV heads: a quarter of the cache a token, and so four sequences in that of one."""
    rows = [
        record(impl, num_q_heads=16, num_kv_heads=heads, batch_size=batch, latency_ms=latency_ms,
               tokens_per_s=batch / latency_ms * 1e3)
        for heads, latencies in ((16, (2.0, 4.0, 8.0)), (4, (1.0, 1.5, 2.0)))
        for batch, latency in zip((1, 2, 4), latencies, strict=True)
        for impl, latency_ms in (("sdpa", latency), ("repeat_kv", 3 * latency))
    ]  # fmt: skip
    data = frontier.prepare(tidy(frame_of(rows)))
    assert isinstance(data, FigureData)
    assert set(data.frame["impl"]) == {"sdpa"}
    assert len(data.frame) == 6
    assert (
        "16 KV heads at batch 1 give 500 tokens/s with sdpa; in no more of it, 4 KV heads at batch 4 give"
        in (data.caption)
    )
    assert data.caption.endswith(
        "2k tokens/s with sdpa, 4× as many. The numbers at the points are batch sizes."
    )
    figure = drawn(frontier, data)
    latency_axes, cache_axes = figure.axes
    assert [len(line.get_xdata()) for line in latency_axes.lines] == [3, 3]
    assert list(latency_axes.lines[1].get_xdata()) == [1.0, 1.5, 2.0]
    assert list(latency_axes.lines[1].get_ydata()) == list(cache_axes.lines[1].get_ydata())
    assert cache_axes.lines[0].get_xdata()[0] == cache_axes.lines[1].get_xdata()[2]
    assert {"16 KV heads (MHA)", "4 KV heads (GQA)"} <= {text.get_text() for text in cache_axes.texts}


def test_a_frontier_needs_two_batches_of_two_numbers_of_kv_heads(record, frame_of):
    one_batch = [record(num_kv_heads=heads, batch_size=4) for heads in (32, 8)]
    other = [record(num_kv_heads=32, batch_size=8)]
    for rows in (one_batch, one_batch + other):
        data = frontier.prepare(tidy(frame_of(rows)))
        assert isinstance(data, NotDrawn)
        assert "no two numbers of KV heads" in data.reason
