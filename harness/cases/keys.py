"""The keys of a sweep: the axes of the problem, from the table of axes, and those of the run."""

from __future__ import annotations

from dataclasses import MISSING
from typing import get_type_hints

import omegaconf

from gqabench import conf
from gqabench.results.axes import AXES
from gqabench.results.record import Record


def axis_keys() -> list[conf.Key]:
    """Return the axes as keys of a configuration. One that each case must give has no default."""
    hints = get_type_hints(Record)
    return [
        conf.Key(
            name=axis.key,
            type=hints[axis.key],
            about=axis.about,
            default=omegaconf.MISSING if axis.default is MISSING else axis.default,
        )
        for axis in AXES.values()
    ]


SweepConfig = conf.sweep_config(axis_keys(), __name__)
"""The schema of `gqabench sweep`."""


def register_keys() -> None:
    """Make the schema known to Hydra."""
    conf.register(SweepConfig)
