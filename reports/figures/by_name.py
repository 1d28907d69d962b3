"""One figure by its name: what `gqabench.figure` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gqabench.reports.figures.registry import FIGURES
from gqabench.reports.figures.spec import FigureData, FigureSpec, NotDrawn
from gqabench.reports.figures.theme import theme
from gqabench.reports.frames.tidy import stages, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def figure(name: str, frame: pd.DataFrame, *, stage: str | None = None) -> Figure:
    """Draw one figure of the report from records, as `gqabench.load` and `gqabench.measure` return them.

    Args:
        name: `kv_cache`, `kv_cache_by_heads`, `models`, `latency_by_kv_heads`, `workspace`, `latency`,
            `throughput`, `ranking`, `frontier`, `roof_share` or `speed_up`.
        frame: One row a record; any choice of rows. It is not changed.
        stage: `decode`, `prefill`, `extend` or another workload, for a figure that shows one of them. Needed
            where the frame has data for several.

    The figure belongs to no window and is unknown to `matplotlib.pyplot`; matplotlib's settings stay as they
    are. Save it with `figure.savefig("latency.svg")`; a notebook shows it.

    Raises `ValueError` for an unknown name or stage, and with the reason where the frame lacks what the
    figure shows.
    """
    specs = {spec.name: spec for spec in FIGURES}
    if name not in specs:
        raise ValueError(f"name={name!r}: no such figure; valid: {', '.join(specs)}")
    tidied = tidy(frame)
    if len(tidied) == 0:
        raise ValueError(f"figure {name}: the frame has no records")
    data = (
        _data_of_stage(specs[name], tidied, stage) if specs[name].per_stage else specs[name].prepare(tidied)
    )
    if isinstance(data, NotDrawn):
        raise ValueError(f"figure {name}: {data.reason}")
    with theme():
        return specs[name].draw(data)


def _data_of_stage(spec: FigureSpec, tidied: pd.DataFrame, stage: str | None) -> FigureData | NotDrawn:
    """Return the data of the one stage that was asked for, or that has any."""
    present = stages(tidied)
    if stage is not None and stage not in present:
        raise ValueError(f"stage={stage!r}: not in the frame; valid: {', '.join(present)}")
    chosen = present if stage is None else [stage]
    prepared = {one: spec.prepare(tidied[tidied["stage"] == one]) for one in chosen}
    drawable = {one: data for one, data in prepared.items() if isinstance(data, FigureData)}
    if len(drawable) > 1:
        raise ValueError(f"figure {spec.name}: shows one stage; name it: stage={' or '.join(drawable)}")
    return next(iter(drawable.values()), next(iter(prepared.values())))
