"""What disturbs measuring on a machine: each check is a function of observed facts to a finding.

A fact that is None was not seen, and gives no finding. `gqabench.harness.cli.doctor` looks, and prints.
"""

from __future__ import annotations

from gqabench.harness.doctor.cpu_checks import (
    check_battery,
    check_clock_limit,
    check_governor,
    check_neighbours,
    check_numa,
    check_quota,
    check_smt,
    check_spin_waits,
    check_steal,
    check_threads,
    check_turbo,
    check_virtual_machine,
)
from gqabench.harness.doctor.findings import Finding, Level
from gqabench.harness.doctor.gpu_checks import check_gpu, check_torch_build
from gqabench.harness.doctor.memory_checks import check_disk, check_memory, check_swap
from gqabench.harness.doctor.observed import Observed
from gqabench.harness.machine.roofs import Roofs

_UNSTEADY_SHARE = 0.2
"""By which the best read may beat the median one. Quiet machines stay below a tenth."""


def examine(observed: Observed) -> list[Finding]:
    """Make all checks; return the findings in the order in which to read them."""
    machine = observed.machine
    cpu, limits = machine.get("cpu", {}), machine.get("limits", {})
    num_threads = machine["threads"]["num_torch_threads"]
    num_cores = observed.num_usable_cores
    gpus = [device for device in machine["devices"] if device["device"] != "cpu"]
    findings = [
        check_neighbours(observed.load, observed.num_cores),
        check_steal(observed.load.steal_share),
        check_virtual_machine(cpu.get("is_virtual_machine")),
        check_threads(num_threads, num_cores, machine["threads"].get("OMP_NUM_THREADS")),
        check_spin_waits(num_threads, num_cores, observed.load.num_busy_cores),
        check_quota(limits.get("cpu_quota_cores"), num_threads),
        check_governor(cpu.get("governor")),
        check_clock_limit(cpu.get("frequency_limit_mhz"), cpu.get("max_frequency_mhz")),
        check_battery(observed.is_on_battery),
        check_turbo(cpu.get("turbo")),
        check_smt(cpu.get("smt")),
        check_numa(cpu.get("num_numa_nodes")),
        check_memory(observed.available_bytes),
        check_swap(observed.swap_used_bytes, observed.load.swapped_bytes),
        check_disk(observed.disk_free_bytes, observed.results_dir),
        check_compiler(observed.compiler),
        check_torch_build(observed.has_nvidia_gpu, len(gpus), machine["libraries"]),
    ]
    for gpu in gpus:
        device = gpu["device"]
        findings += check_gpu(
            gpu, observed.gpu_memory_bytes.get(device), observed.gpu_busy_shares.get(device)
        )
    return [finding for finding in findings if finding is not None]


def check_compiler(compiler: str | None) -> Finding:
    """Find whether compiled implementations can run."""
    if compiler is not None:
        return Finding("compiler", Level.OK, f"C compiler: {compiler}")
    what = "there is no C compiler: compiled implementations (flex_attention, Triton) cannot run"
    return Finding("compiler", Level.NOTE, what, "install gcc, or set CC to a compiler")


def check_roofs(roofs: Roofs) -> Finding:
    """Check for memory whose speed changes, and for cores that neighbours took meanwhile."""
    if roofs.is_disturbed:
        what = f"torch's threads got {roofs.cpu_share:.0%} of their cores' time: these roofs may be too low"
        return Finding("roofs", Level.WARNING, what, "stop the neighbours, and run gqabench doctor again")
    best, median = roofs.read.best, roofs.read.median
    what = f"memory was read at {best:.4g} GB/s at best and {median:.4g} GB/s in the median"
    if best / median - 1 <= _UNSTEADY_SHARE:
        return Finding("roofs", Level.OK, what)
    what += ": its speed changes from one moment to the next"
    return Finding("roofs", Level.WARNING, what, "look for neighbours, also on the host of a virtual machine")
