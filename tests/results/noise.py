"""Machines made up: how the log of a latency scatters from one fresh process to the next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def quiet(generator: np.random.Generator, num_processes: int) -> Values:
    """One per cent of scatter."""
    return generator.normal(0, 0.01, num_processes)


def noisy(generator: np.random.Generator, num_processes: int) -> Values:
    """Five per cent, and every tenth process is disturbed by 20 % on average."""
    disturbed = generator.random(num_processes) < 0.1
    return generator.normal(0, 0.05, num_processes) + disturbed * generator.exponential(0.2, num_processes)


def bimodal(generator: np.random.Generator, num_processes: int) -> Values:
    """Two processes of five fall into a mode that is 28 % slower."""
    return generator.normal(0, 0.01, num_processes) + 0.25 * (generator.random(num_processes) < 0.4)


def drifting(generator: np.random.Generator, num_processes: int) -> Values:
    """A trend, a wave and a random walk of one per cent a step under one per cent of scatter."""
    time = np.arange(num_processes) + generator.integers(100)
    walk = np.cumsum(generator.normal(0, 0.01, num_processes))
    return 0.004 * time + 0.05 * np.sin(time / 5) + walk + generator.normal(0, 0.01, num_processes)


MACHINES = {"quiet": quiet, "noisy": noisy, "drifting": drifting, "bimodal": bimodal}


def log_ratios(machine: str, generator: np.random.Generator, num_pairs: int, change: float) -> list[float]:
    """`ln(new / base)` of pairs of fresh processes, the first of each pair drawn by a coin."""
    processes = MACHINES[machine](generator, 2 * num_pairs).reshape(num_pairs, 2)
    signs = generator.choice([-1, 1], num_pairs)
    return list(signs * (processes[:, 0] - processes[:, 1]) + np.log1p(change))
