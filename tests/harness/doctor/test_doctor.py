from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gqabench.harness.cli import doctor as command
from gqabench.harness.cli.doctor import (
    Snapshot,
    available_bytes,
    finding_lines,
    has_nvidia_gpu,
    load_between,
    nearest_folder,
    observe,
    roof_lines,
    take_snapshot,
)
from gqabench.harness.doctor.checks import check_compiler, check_roofs, examine
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
from gqabench.harness.doctor.observed import Load, Neighbour, Observed
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.nvml import NullNvml, Utilisation
from gqabench.harness.machine.roofs import Roof, Roofs
from gqabench.harness.workers import pool
from gqabench.harness.workers.process import WorkerFailed

GIB = 2**30
QUIET = Load(num_busy_cores=0.02, steal_share=0.0, swapped_bytes=0)


def roofs(best: float = 50.0, median: float = 49.0) -> Roofs:
    read = Roof(
        best=best, median=median, spread=0.01, num_repetitions=99, method="torch.sum of float32, 64 MiB"
    )
    return Roofs(read=read, copy=read, matmul={"float32": replace(read, best=0.25, median=0.2)})


def load(num_busy_cores: float) -> Load:
    return replace(QUIET, num_busy_cores=num_busy_cores)


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (check_neighbours(load(0.1), 2), "ok"),
        (check_neighbours(load(0.2), 2), "warning"),
        (check_neighbours(load(0.9), 100), "ok"),
        (check_neighbours(load(1.1), 100), "warning"),
        (check_steal(0.0), None),
        (check_steal(0.02), "warning"),
        (check_virtual_machine(None), None),
        (check_virtual_machine(False), None),
        (check_virtual_machine(True), "note"),
        (check_threads(2, 2), "ok"),
        (check_threads(1, 2), "note"),
        (check_threads(3, 2), "problem"),
        (check_threads(2, 2, "2"), "ok"),
        (check_threads(2, 2, "4"), "warning"),
        (check_threads(2, 2, "4,2"), "warning"),
        (check_threads(2, 2, "many"), "ok"),
        (check_spin_waits(2, 2, 0.05), None),
        (check_spin_waits(2, 2, 0.5), "warning"),
        (check_spin_waits(2, 4, 1.9), None),
        (check_spin_waits(2, 4, 2.5), "warning"),
        (check_spin_waits(1, 2, 1.9), None),
        (check_spin_waits(4, 2, 1.9), None),
        (check_quota(None, 2), None),
        (check_quota(2.0, 2), "ok"),
        (check_quota(1.5, 2), "problem"),
        (check_governor(None), None),
        (check_governor("performance"), "ok"),
        (check_governor("powersave"), "warning"),
        (check_governor("performance, schedutil"), "warning"),
        (check_clock_limit(None, 3900.0), None),
        (check_clock_limit(2500.0, None), None),
        (check_clock_limit(3900.0, 3900.0), None),
        (check_clock_limit(2500.0, 3900.0), "warning"),
        (check_battery(None), None),
        (check_battery(False), None),
        (check_battery(True), "warning"),
        (check_turbo(None), None),
        (check_turbo(False), None),
        (check_turbo(True), "note"),
        (check_smt(None), None),
        (check_smt(False), None),
        (check_smt(True), "note"),
        (check_numa(None), None),
        (check_numa(1), None),
        (check_numa(2), "note"),
        (check_memory(2 * GIB), "ok"),
        (check_memory(2 * GIB - 1), "warning"),
        (check_swap(0, 0), None),
        (check_swap(2**20, 0), "note"),
        (check_swap(2**20, 4096), "warning"),
        (check_disk(10**9, Path("r")), "ok"),
        (check_disk(10**9 - 1, Path("r")), "warning"),
        (check_disk(10**8 - 1, Path("r")), "problem"),
        (check_disk(None, Path("r")), "problem"),
        (check_compiler("/usr/bin/cc"), "ok"),
        (check_compiler(None), "note"),
        (check_torch_build(False, 0, {"torch": "2.13.0+cpu"}), None),
        (check_torch_build(True, 1, {"torch": "2.13.0", "cuda": "13.0"}), None),
        (check_torch_build(True, 0, {"torch": "2.13.0+cpu"}), "problem"),
        (check_torch_build(True, 0, {"torch": "2.13.0", "cuda": "13.0"}), "problem"),
        (check_roofs(roofs(50.0, 45.0)), "ok"),
        (check_roofs(roofs(50.0, 40.0)), "warning"),
        (check_roofs(replace(roofs(50.0, 45.0), cpu_share=0.5)), "warning"),
    ],
    ids=lambda value: value.check if isinstance(value, Finding) else str(value),
)
def test_the_level_of_each_check(finding: Finding | None, level: str | None) -> None:
    assert (None if finding is None else finding.level.value) == level
    if finding is not None and finding.level.disturbs:
        assert finding.fix, "what disturbs can be fixed"


def test_busy_neighbours_are_named_busiest_first_and_three_at_most() -> None:
    neighbours = tuple(Neighbour(f"p{place}", place, 0.4 - place / 10) for place in range(4))
    finding = check_neighbours(replace(load(1.0), neighbours=neighbours), 2)
    assert finding.what == (
        "other processes keep 1.00 of 2 cores busy: p0 (0) 0.40, p1 (1) 0.30, p2 (2) 0.20"
    )
    assert check_neighbours(load(1.0), 2).what.endswith("; none of them is visible from here")


def test_fixes_say_a_number_of_threads_that_fits() -> None:
    oversubscribed, spinning, starved = check_threads(8, 2), check_spin_waits(4, 4, 1.2), check_quota(2.5, 4)
    assert oversubscribed.fix == "OMP_NUM_THREADS=2"
    assert spinning is not None and "OMP_NUM_THREADS=2" in str(spinning.fix)
    assert starved is not None and "OMP_NUM_THREADS=2" in str(starved.fix)
    least = check_quota(0.5, 4)
    assert least is not None and "OMP_NUM_THREADS=1" in str(least.fix)


def test_each_way_in_which_torch_misses_a_gpu_is_mended_in_its_own_way() -> None:
    cpu_build = check_torch_build(True, 0, {"torch": "2.13.0+cpu"})
    hidden = check_torch_build(True, 0, {"torch": "2.13.0", "cuda": "13.0"})
    assert cpu_build is not None and cpu_build.fix == "install a CUDA build of torch"
    assert hidden is not None and "CUDA_VISIBLE_DEVICES" in str(hidden.fix)


GPU = {"device": "cuda:0", "name": "some GPU", "uuid": "GPU-0"}


@pytest.mark.parametrize(
    ("facts", "foreign_bytes", "found"),
    [
        ({}, None, [("ok", "some GPU: nothing disturbs it")]),
        (
            {"throttle_reasons": ["gpu_idle"], "power_limit_w": 700.0, "default_power_limit_w": 700.0},
            GIB,
            [("ok", "some GPU: nothing disturbs it")],
        ),
        ({}, 3 * GIB, [("warning", "other processes hold 3.0 GiB of it")]),
        (
            {"throttle_reasons": ["gpu_idle", "sw_power_cap"]},
            None,
            [("warning", "it holds its clocks back: sw_power_cap")],
        ),
        (
            {"power_limit_w": 400.0, "default_power_limit_w": 700.0},
            None,
            [("warning", "its power limit is 400 W, by default it is 700 W")],
        ),
        (
            {"persistence_mode": False, "throttle_reasons": None},
            None,
            [
                (
                    "note",
                    "persistence mode is off: the driver loads anew for each first process",
                )
            ],
        ),
    ],
    ids=["nothing known", "all well", "others", "throttled", "low power limit", "no persistence"],
)
def test_what_nvml_tells_of_a_gpu(
    facts: dict[str, Any], foreign_bytes: int | None, found: list[tuple[str, str]]
) -> None:
    findings = check_gpu(GPU | facts, foreign_bytes)
    assert [(finding.level.value, finding.what) for finding in findings] == found
    assert {finding.check for finding in findings} == {"cuda:0"}


@pytest.fixture
def quiet() -> Observed:
    """A machine on which nothing disturbs."""
    return Observed(
        machine={
            "devices": [{"device": "cpu", "name": "some CPU"}],
            "threads": {"num_torch_threads": 2},
            "libraries": {"torch": "2.13.0+cpu"},
        },
        num_cores=2,
        num_usable_cores=2,
        load=QUIET,
        available_bytes=8 * GIB,
        swap_used_bytes=0,
        is_on_battery=None,
        compiler="/usr/bin/cc",
        results_dir=Path("results/runs"),
        disk_free_bytes=10**11,
        has_nvidia_gpu=False,
        gpu_memory_bytes={},
        gpu_busy_shares={},
    )


def test_the_variable_of_the_threads_is_looked_at(quiet: Observed) -> None:
    threads = {"num_torch_threads": 2, "OMP_NUM_THREADS": "8"}
    findings = examine(replace(quiet, machine=quiet.machine | {"threads": threads}))
    assert [finding.check for finding in findings if finding.level.disturbs] == ["threads"]


def test_on_a_quiet_machine_all_is_well(quiet: Observed) -> None:
    assert {finding.level for finding in examine(quiet)} == {Level.OK}


def test_a_gpu_that_works_for_others_is_found() -> None:
    assert [one.level for one in check_gpu(GPU, busy_share=0.02)] == [Level.OK]
    (finding,) = check_gpu(GPU, busy_share=0.5)
    assert (finding.level, finding.what) == (
        Level.WARNING,
        "other processes ran kernels for 50% of the time",
    )


class BusyNvml(NullNvml):
    """A GPU of which 5 GiB are taken, one of them by the worker with process id 7."""

    def device_memory_bytes(self, uuid: str) -> int | None:
        return 5 * GIB

    def process_memory_bytes(self, uuid: str, pid: int) -> int | None:
        return GIB if pid == 7 else None

    def utilisation(self, uuid: str) -> Utilisation | None:
        return Utilisation(gpu=0.5, memory=0.1)


def test_a_look_at_a_gpu(gpu_host: HostDescription, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "_SAMPLE_SECONDS", 0.05)
    observed = observe(replace(gpu_host, num_threads=1), BusyNvml(), 7, tmp_path)
    assert observed.gpu_memory_bytes == {"cuda:0": 4 * GIB}
    assert observed.gpu_busy_shares == {"cuda:0": 0.5}
    found = [one.what for one in examine(observed) if one.check == "cuda:0"]
    assert found == [
        "other processes hold 4.0 GiB of it",
        "other processes ran kernels for 50% of the time",
    ]


def test_every_check_is_asked(quiet: Observed) -> None:
    machine = quiet.machine | {
        "cpu": {
            "is_virtual_machine": True,
            "governor": "powersave",
            "frequency_limit_mhz": 1.0,
            "max_frequency_mhz": 2.0,
            "turbo": True,
            "smt": True,
            "num_numa_nodes": 2,
        },
        "limits": {"cpu_quota_cores": 1.0},
        "devices": [*quiet.machine["devices"], GPU],
    }
    awful = replace(
        quiet,
        machine=machine,
        load=Load(num_busy_cores=1.0, steal_share=0.5, swapped_bytes=4096),
        available_bytes=0,
        is_on_battery=True,
        compiler=None,
        disk_free_bytes=0,
        gpu_memory_bytes={"cuda:0": 2 * GIB},
        gpu_busy_shares={"cuda:0": 0.5},
    )
    found = {finding.check: finding.level for finding in examine(awful)}
    assert found == {
        "neighbours": Level.WARNING,
        "steal": Level.WARNING,
        "virtual machine": Level.NOTE,
        "threads": Level.OK,
        "spin waits": Level.WARNING,
        "CPU quota": Level.PROBLEM,
        "governor": Level.WARNING,
        "clock limit": Level.WARNING,
        "power": Level.WARNING,
        "turbo": Level.NOTE,
        "SMT": Level.NOTE,
        "NUMA": Level.NOTE,
        "memory": Level.WARNING,
        "swap": Level.WARNING,
        "disk": Level.PROBLEM,
        "compiler": Level.NOTE,
        "cuda:0": Level.WARNING,
    }
    no_gpu = replace(quiet, has_nvidia_gpu=True)
    assert "torch build" in {finding.check for finding in examine(no_gpu)}


# Looking.


def snapshot(**counters: Any) -> Snapshot:
    zero = Snapshot(at_s=0.0, busy_s=0.0, steal_s=0.0, total_s=0.0, swapped_bytes=0)
    return replace(zero, **counters)


def test_the_load_between_two_hand_worked_snapshots() -> None:
    # Two seconds on two cores: 3 s busy, of which we used 1 s, and 0.4 of 4 s stolen.
    before = snapshot(at_s=10.0, busy_s=100.0, total_s=500.0, processes={1: ("us", 5.0), 2: ("old", 7.0)})
    after = snapshot(
        at_s=12.0,
        busy_s=103.0,
        steal_s=0.4,
        total_s=504.0,
        swapped_bytes=8192,
        processes={1: ("us", 6.0), 2: ("old", 7.5), 3: ("new", 1.5), 4: ("idle", 0.0)},
        own_pids=frozenset({1}),
    )
    assert load_between(before, after) == Load(
        num_busy_cores=1.0,
        steal_share=pytest.approx(0.1),
        swapped_bytes=8192,
        neighbours=(Neighbour("new", 3, 0.75), Neighbour("old", 2, 0.25)),
    )


def test_counters_that_stand_still_are_no_load() -> None:
    assert load_between(snapshot(), snapshot(at_s=1.0)) == replace(QUIET, num_busy_cores=0.0)


def test_a_busy_process_is_seen_unless_it_is_ours() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            before = take_snapshot()
            while sum(psutil.Process(busy.pid).cpu_times()[:2]) < 0.1:  # seconds of CPU time, not of ours
                time.sleep(0.1)
            after = take_snapshot()
        finally:
            busy.kill()
    ours = {neighbour.pid for neighbour in load_between(before, after).neighbours}
    assert not ours & {os.getpid(), busy.pid}
    foreign = load_between(before, replace(after, own_pids=frozenset({os.getpid()})))
    used = {neighbour.pid: neighbour.num_cores for neighbour in foreign.neighbours}
    assert 0 < used[busy.pid] < 1.2
    assert foreign.num_busy_cores >= used[busy.pid] / 2


def test_a_control_group_may_leave_less_memory_than_there_is(tmp_path: Path) -> None:
    everything = available_bytes(tmp_path)
    assert everything > 0
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 2**20
    (group / "memory.max").write_text("5000\n")
    assert available_bytes(tmp_path) == 4000
    (group / "memory.max").write_text("500\n")
    assert available_bytes(tmp_path) == 0


def test_a_gpu_is_seen_by_its_driver_or_its_device_file(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert not has_nvidia_gpu(tmp_path)
    (tmp_path / "dev" / "nvidia0").touch()
    assert has_nvidia_gpu(tmp_path)
    (tmp_path / "other/proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert has_nvidia_gpu(tmp_path / "other")


def test_the_disk_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    assert nearest_folder(tmp_path / "results" / "runs") == tmp_path
    (tmp_path / "results").mkdir()
    assert nearest_folder(tmp_path / "results" / "runs") == tmp_path / "results"


# The command.


def test_findings_stand_in_columns_with_how_to_fix_them_below() -> None:
    findings = [
        Finding("disk", Level.OK, "5 GB are free"),
        Finding("governor", Level.WARNING, "it is powersave", "set it"),
    ]
    assert finding_lines(findings) == [
        "ok       disk      5 GB are free",
        "warning  governor  it is powersave",
        "                   fix: set it",
    ]


def test_roofs_stand_in_columns_with_their_units() -> None:
    assert roof_lines(roofs(), "cpu, Some CPU")[1:] == [
        "roofs of cpu, Some CPU (best repetition of the best method):",
        "  read                  50 GB/s     median 49 of 99         torch.sum of float32, 64 MiB",
        "  copy                  50 GB/s     median 49 of 99         torch.sum of float32, 64 MiB",
        "  matmul float32      0.25 TFLOP/s  median 0.2 of 99        torch.sum of float32, 64 MiB",
    ]


Look = Callable[..., tuple[Observed, str, Roofs | None]]


@pytest.mark.parametrize(
    ("disturbance", "measured", "code"),
    [
        ({}, None, 0),
        ({}, roofs(), 0),
        ({"compiler": None}, roofs(), 0),
        ({"load": load(1.0)}, None, 1),
        ({}, roofs(50.0, 25.0), 1),
    ],
    ids=["quiet", "with roofs", "a note", "a neighbour", "unsteady memory"],
)
def test_the_exit_code_tells_whether_something_disturbs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quiet: Observed,
    disturbance: dict[str, Any],
    measured: Roofs | None,
    code: int,
) -> None:
    look: Look = lambda _: (replace(quiet, **disturbance), "cpu, Some CPU", measured)  # noqa: E731
    monkeypatch.setattr(command, "_look", look)
    assert command.main([]) == code
    printed = capsys.readouterr().out
    assert ("roofs of cpu, Some CPU (best repetition" in printed) is (measured is not None)
    assert command.main(["--json"]) == code
    values = json.loads(capsys.readouterr().out)
    assert values["roofs"] == (None if measured is None else measured.to_dict())
    assert any(one["level"] in {"warning", "problem"} for one in values["findings"]) is bool(code)
    assert values["machine"] == quiet.machine


def test_where_no_worker_starts_it_could_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise WorkerFailed("crash", "no torch")

    monkeypatch.setattr(pool, "WorkerProcess", fail)
    with pytest.raises(UsageError, match="could not inspect this machine: no torch"):
        command.main([])


def test_a_real_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All of it but the measuring, which has its own tests; what it measured is kept for the next sweep."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(command, "ask_for_roofs", lambda *_: roofs())
    code = command.main(["--json", "--device", "cpu", "--results-dir", str(tmp_path / "runs")])
    values = json.loads(capsys.readouterr().out)
    levels = {one["level"] for one in values["findings"]}
    assert code == int(bool(levels & {"warning", "problem"}))
    assert {"neighbours", "threads", "memory", "disk", "compiler", "roofs"} <= {
        one["check"] for one in values["findings"]
    }
    assert values["machine"]["devices"][0]["device"] == "cpu"
    assert len(list((tmp_path / "gqabench" / "roofs").iterdir())) == 1
