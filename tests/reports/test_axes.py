"""Ticks, labels, lines and bars, worked by hand."""

import itertools
import math

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from gqabench.reports.figures.axes import bytes_ticks, draw_bars, draw_lines, log_ticks, spread_apart
from gqabench.reports.figures.palette import impl_style
from gqabench.reports.figures.theme import new_figure


def test_bytes_ticks_are_powers_of_two_and_few():
    assert bytes_ticks(1024, 8192) == [1024, 2048, 4096, 8192]
    ticks = bytes_ticks(1024, 1024**4)
    assert len(ticks) <= 7
    assert ticks[0] <= 1024
    assert ticks[-1] >= 1024**4 / 2**5


def test_log_ticks_are_denser_where_less_is_covered():
    assert log_ticks(0.01, 100) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert log_ticks(1, 10) == pytest.approx([1, 2, 5, 10])


def test_labels_move_apart_no_more_than_they_must():
    assert spread_apart([0.0, 0.5, 1.0], 0.1) == pytest.approx([0.0, 0.5, 1.0])
    assert spread_apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread_apart([0.5, 0.0, 0.52], 0.1) == pytest.approx([0.46, 0.0, 0.56])
    moved = sorted(spread_apart([0.1, 0.1, 0.12, 0.2], 0.1))
    assert all(high - low >= 0.1 - 1e-9 for low, high in itertools.pairwise(moved))


def test_bars_stand_from_the_top_in_their_colours_and_what_is_unknown_has_none():
    figure = new_figure(2.0)
    axes = figure.subplots()
    draw_bars(axes, {"a": 3.0, "b": math.nan, "c": 1.0}, {"a": "#ff0000", "b": "#00ff00", "c": "#0000ff"})
    bars = {to_hex(bar.get_facecolor()): bar for bar in axes.patches}
    heights = {color: axes.transData.transform(bar.get_center())[1] for color, bar in bars.items()}
    assert heights["#ff0000"] > heights["#0000ff"]
    lengths = [bars[color].get_width() for color in ("#ff0000", "#00ff00", "#0000ff")]
    assert (lengths[0], lengths[2]) == (3.0, 1.0) and math.isnan(lengths[1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


def test_lines_run_from_left_to_right_past_what_was_not_measured():
    rows = pd.DataFrame(
        [("sdpa", 4, 1.0), ("flex", 1, 5.0), ("sdpa", 1, 3.0), ("sdpa", 2, math.nan)],
        columns=["arm", "x", "y"],
    )
    axes = new_figure(2.0).subplots()
    styles = {name: impl_style(name) for name in ("flex", "sdpa", "repeat_kv")}
    draw_lines(axes, rows, "x", "y", styles)
    flex, sdpa = axes.lines
    assert (list(sdpa.get_xdata()), list(sdpa.get_ydata())) == ([1, 4], [3.0, 1.0])
    for line, style in ((flex, styles["flex"]), (sdpa, styles["sdpa"])):
        assert (to_hex(line.get_color()), line.get_marker()) == (style.color.lower(), style.marker)
        assert line.is_dashed() == bool(style.dashes)
    assert not axes.texts
    draw_lines(axes, rows[:0], "x", "y", styles)
    assert [text.get_text() for text in axes.texts] == ["not measured"]
