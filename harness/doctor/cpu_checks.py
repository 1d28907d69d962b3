"""Who else uses the cores, and what the clocks follow."""

from __future__ import annotations

import math

from gqabench.harness.doctor.findings import Finding, Level
from gqabench.harness.doctor.observed import Load
from gqabench.results.flags import condition_flags

_STEAL_SHARE = 0.01
_CAPPED_SHARE = 0.98
"""Of the highest clock; a limit closer to it is rounding."""
_NUM_NAMED = 3


def check_neighbours(load: Load, num_cores: int) -> Finding:
    """Check for other processes that use the CPU, by the limit of a record's flag `background_load`."""
    what = f"other processes keep {load.num_busy_cores:.2f} of {num_cores} cores busy"
    if not _is_busy(load.num_busy_cores, num_cores):
        return Finding("neighbours", Level.OK, what)
    named = [f"{one.name} ({one.pid}) {one.num_cores:.2f}" for one in load.neighbours[:_NUM_NAMED]]
    what += f": {', '.join(named)}" if named else "; none of them is visible from here"
    return Finding("neighbours", Level.WARNING, what, "stop them, or wait for them to finish")


def check_steal(share: float) -> Finding | None:
    """Check the time that other guests of the same hypervisor took."""
    if share <= _STEAL_SHARE:
        return None
    what = f"the hypervisor gave {share:.1%} of the cores' time to other guests"
    return Finding("steal", Level.WARNING, what, "take a machine with cores of its own, or measure later")


def check_virtual_machine(is_virtual: bool | None) -> Finding | None:
    """Note that a host is shared with others that cannot be seen."""
    if not is_virtual:
        return None
    what = "this is a virtual machine: others on its host share the memory and the clocks, and are not seen"
    return Finding("virtual machine", Level.NOTE, what)


def check_threads(num_threads: int, num_usable_cores: int, omp_num_threads: str | None = None) -> Finding:
    """Check for more threads than cores, which run in turns. `omp_num_threads` is the variable of that name.

    A torch that is built with MKL takes no more threads than cores, whatever the variable says.
    """
    what = f"torch uses {num_threads} threads on {num_usable_cores} usable cores"
    if num_threads > num_usable_cores:
        return Finding("threads", Level.PROBLEM, what, f"OMP_NUM_THREADS={num_usable_cores}")
    asked = (omp_num_threads or "").partition(",")[0].strip()
    if asked.isdecimal() and int(asked) > num_usable_cores:
        what += f"; other OpenMP libraries will take OMP_NUM_THREADS={asked}"
        return Finding("threads", Level.WARNING, what, f"OMP_NUM_THREADS={num_usable_cores}")
    if num_threads < num_usable_cores:
        return Finding("threads", Level.NOTE, f"{what}: latencies and roofs are of so many threads")
    return Finding("threads", Level.OK, what)


def check_spin_waits(num_threads: int, num_usable_cores: int, num_busy_cores: float) -> Finding | None:
    """Check for threads that spin while one of them waits for a core, for whole time slices."""
    num_missing = num_busy_cores - (num_usable_cores - num_threads)
    if num_threads == 1 or num_threads > num_usable_cores or not _is_busy(num_missing, num_usable_cores):
        return None
    num_free = max(num_usable_cores - math.ceil(num_busy_cores), 1)
    what = (
        f"{num_threads} threads share {num_usable_cores} cores with neighbours: when one of them has to wait"
        " for a core, the others spin, and calls are delayed by whole time slices of the scheduler"
        " (4 ms and multiples)"
    )
    return Finding("spin waits", Level.WARNING, what, f"end the neighbours, or OMP_NUM_THREADS={num_free}")


def check_quota(quota_cores: float | None, num_threads: int) -> Finding | None:
    """Check the quota: a group that has used it up stops until the next period, of mostly 100 ms."""
    if quota_cores is None:
        return None
    what = f"the control group may use {quota_cores:g} cores, torch uses {num_threads} threads"
    if num_threads <= quota_cores:
        return Finding("CPU quota", Level.OK, what)
    fix = f"raise the quota (cpu.max), or OMP_NUM_THREADS={max(math.floor(quota_cores), 1)}"
    return Finding("CPU quota", Level.PROBLEM, f"{what}: calls will stop in the middle", fix)


def check_governor(governor: str | None) -> Finding | None:
    """Check the governor: any but `performance` lets the clock follow the load."""
    if governor is None:
        return None
    if governor == "performance":
        return Finding("governor", Level.OK, "the frequency governor is performance")
    what = f"the frequency governor is {governor}: clocks rise and fall while it measures"
    return Finding("governor", Level.WARNING, what, "sudo cpupower frequency-set --governor performance")


def check_clock_limit(limit_mhz: float | None, highest_mhz: float | None) -> Finding | None:
    """Check for a clock that somebody has limited."""
    if limit_mhz is None or highest_mhz is None or limit_mhz >= _CAPPED_SHARE * highest_mhz:
        return None
    what = f"the CPU's clock is limited to {limit_mhz:.0f} of {highest_mhz:.0f} MHz"
    fix = f"sudo cpupower frequency-set --max {highest_mhz:.0f}MHz"
    return Finding("clock limit", Level.WARNING, what, fix)


def check_battery(is_on_battery: bool | None) -> Finding | None:
    """Warn about a battery, on which clocks are lower."""
    if not is_on_battery:
        return None
    return Finding("power", Level.WARNING, "the machine runs on its battery", "plug it in")


def check_turbo(turbo: bool | None) -> Finding | None:
    """Note that turbo lets the clock depend on heat."""
    if not turbo:
        return None
    what = "turbo is on: the clock depends on heat and on how many cores work"
    return Finding("turbo", Level.NOTE, what)


def check_smt(smt: bool | None) -> Finding | None:
    """Note that two hardware threads share a core."""
    if not smt:
        return None
    what = "two hardware threads share a core: neighbours slow us even where cores look idle"
    return Finding("SMT", Level.NOTE, what)


def check_numa(num_nodes: int | None) -> Finding | None:
    """Note that the speed of memory depends on where threads run."""
    if num_nodes is None or num_nodes < 2:
        return None
    what = f"memory lies in {num_nodes} NUMA nodes: its speed depends on where threads run"
    return Finding("NUMA", Level.NOTE, what, "numactl --cpunodebind=0 --membind=0 gqabench ...")


def _is_busy(num_busy_cores: float, num_cores: int) -> bool:
    """Whether so many busy cores raise a record's flag."""
    flags = condition_flags(
        throttle_reasons=None,
        clock_mhz=None,
        clock_range_mhz=None,
        background_load=num_busy_cores,
        num_cores=num_cores,
    )
    return bool(flags)
