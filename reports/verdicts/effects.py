"""Effects with their intervals, a line a cell: what changed, by how much, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gqabench.reports.figures.theme import INK, new_figure, png_bytes, svg_bytes, theme
from gqabench.reports.units import is_missing
from gqabench.reports.verdicts.wording import answer_text
from gqabench.results.comparison.metrics import JUDGED_METRICS
from gqabench.results.comparison.verdicts import Comparison, Verdict

MAX_LINES = 40
LINE_INCHES = 0.26

LOOKS = {
    "regression": ("#D55E00", "s"),
    "inconclusive": ("#999999", "o"),
    "no regression": ("#56B4E9", "D"),
    "better": ("#0072B2", "^"),
}
"""Colour and marker of an answer; Okabe and Ito's colours."""


def effects_figure(comparison: Comparison, suffix: str) -> bytes:
    """Draw the figure as `.png` or `.svg`. Raises `ValueError` for another ending, or without effects."""
    if suffix not in (".png", ".svg"):
        raise ValueError(f"the suffix {suffix or '(none)'} must be .png or .svg")
    frame = effects_frame(comparison)
    if len(frame) == 0:
        raise ValueError("no metric that scatters was compared, so there are no effects to draw")
    with theme():
        figure = draw(frame, comparison)
        return png_bytes(figure) if suffix == ".png" else svg_bytes(figure)


def drawn_verdicts(comparison: Comparison) -> list[Verdict]:
    """Return those of metrics that scatter, where a change is known."""
    return [
        verdict
        for verdict in comparison.verdicts
        if verdict.change is not None
        and verdict.metric in JUDGED_METRICS
        and not JUDGED_METRICS[verdict.metric].is_exact
    ]


def effects_frame(comparison: Comparison) -> pd.DataFrame:
    """Return changes in per cent of metrics that scatter, the largest first, at most `MAX_LINES`."""
    drawn = drawn_verdicts(comparison)
    shared = shared_parts(drawn)
    rows = [
        {
            "line": ", ".join(part for part in _parts(verdict) if part not in shared),
            "change": verdict.change * 100,
            "low": None if verdict.change_low is None else verdict.change_low * 100,
            "high": None if verdict.change_high is None else verdict.change_high * 100,
            "answer": answer_text(verdict),
        }
        for verdict in drawn
        if verdict.change is not None
    ]
    frame = pd.DataFrame(rows, columns=["line", "change", "low", "high", "answer"])
    shown = frame.reindex(frame["change"].abs().sort_values(ascending=False).index)[:MAX_LINES]
    return shown.sort_values("change", ascending=False).reset_index(drop=True)


def shared_parts(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what the names of all cells have in common, which a figure says once; nothing of one cell."""
    if len(verdicts) < 2:
        return []
    return [part for part in _parts(verdicts[0]) if all(part in _parts(verdict) for verdict in verdicts)]


def _parts(verdict: Verdict) -> list[str]:
    return [*verdict.cell.label.split(", "), verdict.metric]


def draw(frame: pd.DataFrame, comparison: Comparison) -> Figure:
    """Draw a point for the estimate and a bar for its interval; right of the line is slower or more."""
    import seaborn as sns  # here: it takes a second to import

    figure = new_figure(LINE_INCHES * len(frame) + 1.3)
    axes = figure.subplots()
    axes.axvline(0, color=INK, lw=1)
    row: Any
    for place, row in enumerate(frame.itertuples()):
        if not is_missing(row.low) and not is_missing(row.high):
            axes.hlines(place, row.low, row.high, color=LOOKS[str(row.answer)][0], lw=1.8, zorder=2)
    present = [answer for answer in LOOKS if answer in set(frame["answer"])]
    sns.scatterplot(
        frame, x="change", y="line", hue="answer", style="answer", hue_order=present, style_order=present,
        palette={answer: LOOKS[answer][0] for answer in present},
        markers={answer: LOOKS[answer][1] for answer in present}, s=55, ax=axes, zorder=3,
    )  # fmt: skip
    ends = frame[["change", "low", "high"]].astype(float)
    low, high = min(ends.min().min(), 0), max(ends.max().max(), 0)
    margin = 0.05 * (high - low) or 1.0
    axes.set(xlim=(low - margin, high + margin), ylabel="")
    axes.set_xlabel("change from base to new (%), with its 95 % interval")
    of_all = shared_parts(drawn_verdicts(comparison))
    axes.set_title(f"{comparison.base} → {comparison.new}" + (f"\n{', '.join(of_all)}" if of_all else ""))
    axes.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
