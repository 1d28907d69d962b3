from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gqabench.harness.machine.cpu import describe_cpu
from gqabench.harness.machine.description import describe_machine, describe_system, usable_cpus
from gqabench.harness.machine.host import HostDescription
from gqabench.harness.machine.limits import cgroup_folders, describe_limits, describe_memory
from gqabench.harness.machine.nvml import NullNvml
from gqabench.harness.machine.source import lock_hash
from gqabench.harness.worker.host import describe_host, driver_version

MIB = 2**20


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def server_files() -> dict[str, str]:
    """Two sockets with two cores each, two hardware threads a core."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU 9000\nmicrocode\t: 0x7\ncpu MHz\t\t: 1234.5\n"
        "flags\t\t: fpu sse avx2\n\nprocessor\t: 1\nmodel name\t: Some CPU 9000\ncpu MHz\t\t: 800.0\n",
        "sys/devices/system/cpu/smt/active": "1",
        "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
        "sys/devices/system/node/node0/cpulist": "0-3",
        "sys/devices/system/node/node1/cpulist": "4-7",
    }
    for cpu in range(8):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        socket, core = cpu // 4, cpu // 2 % 2
        first, socket_cpus = cpu // 2 * 2, "0-3" if socket == 0 else "4-7"
        files |= {
            f"{folder}/topology/physical_package_id": str(socket),
            f"{folder}/topology/core_id": str(core),
            f"{folder}/cpufreq/scaling_governor": "powersave" if cpu == 7 else "performance",
            f"{folder}/cpufreq/scaling_driver": "intel_pstate",
            f"{folder}/cpufreq/energy_performance_preference": "performance",
            f"{folder}/cpufreq/cpuinfo_min_freq": "800000",
            f"{folder}/cpufreq/cpuinfo_max_freq": "3900000" if cpu == 0 else "3800000",
            f"{folder}/cpufreq/scaling_max_freq": "2500000",
        }
        caches = [
            ("1", "Data", "48K", first),
            ("1", "Instruction", "32K", first),
            ("2", "Unified", "2048K", first),
        ]
        for index, (level, kind, size, sharer) in enumerate(caches):
            files |= {
                f"{folder}/cache/index{index}/level": level,
                f"{folder}/cache/index{index}/type": kind,
                f"{folder}/cache/index{index}/size": size,
                f"{folder}/cache/index{index}/shared_cpu_list": f"{sharer}-{sharer + 1}",
            }
        files |= {
            f"{folder}/cache/index3/level": "3",
            f"{folder}/cache/index3/type": "Unified",
            f"{folder}/cache/index3/size": "32768K",
            f"{folder}/cache/index3/shared_cpu_list": socket_cpus,
        }
    return files


def test_a_server_is_described_in_full(tmp_path: Path) -> None:
    assert describe_cpu(write_tree(tmp_path, server_files())) == {
        "model": "Some CPU 9000",
        "microcode": "0x7",
        "is_virtual_machine": False,
        "num_sockets": 2,
        "num_physical_cores": 4,
        "num_logical_cores": 8,
        "smt": True,
        "num_numa_nodes": 2,
        "governor": "performance, powersave",
        "frequency_driver": "intel_pstate",
        "energy_preference": "performance",
        "min_frequency_mhz": 800.0,
        "max_frequency_mhz": 3900.0,
        "frequency_limit_mhz": 2500.0,
        "frequency_mhz": 1234.5,
        "turbo": True,
        "caches": {
            "l1d": {"size_bytes": 48 * 1024, "num_caches": 4},
            "l1i": {"size_bytes": 32 * 1024, "num_caches": 4},
            "l2": {"size_bytes": 2 * MIB, "num_caches": 4},
            "l3": {"size_bytes": 32 * MIB, "num_caches": 2},
        },
    }


def test_what_the_kernel_does_not_tell_is_left_out(tmp_path: Path) -> None:
    assert describe_cpu(tmp_path) == {}
    assert describe_memory(tmp_path) == {}
    assert describe_limits(tmp_path, {}) == {}


def test_a_virtual_machine_names_its_hypervisor_where_the_firmware_does(tmp_path: Path) -> None:
    firmware = {"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "m7i.large"}
    write_tree(tmp_path, {"proc/cpuinfo": "flags\t: fpu hypervisor avx2"})
    assert describe_cpu(tmp_path) == {"is_virtual_machine": True}
    assert describe_cpu(write_tree(tmp_path, firmware))["hypervisor"] == "Amazon EC2 m7i.large"
    write_tree(tmp_path, {"proc/cpuinfo": "flags\t: fpu avx2"})
    assert describe_cpu(tmp_path) == {"is_virtual_machine": False}, "the vendor of real hardware is none"


def test_firmware_is_its_version_with_the_date_where_there_is_one(tmp_path: Path) -> None:
    folder = "sys/class/dmi/id"
    assert describe_cpu(write_tree(tmp_path, {f"{folder}/bios_version": "2.7"}))["firmware"] == "2.7"
    write_tree(tmp_path, {f"{folder}/bios_date": "05/12/2026"})
    assert describe_cpu(tmp_path)["firmware"] == "2.7 (05/12/2026)"


@pytest.mark.parametrize(
    ("file", "text", "turbo"),
    [
        ("intel_pstate/no_turbo", "1", False),
        ("intel_pstate/no_turbo", "0", True),
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
    ],
)
def test_turbo_by_either_driver(tmp_path: Path, file: str, text: str, turbo: bool) -> None:
    assert describe_cpu(write_tree(tmp_path, {f"sys/devices/system/cpu/{file}": text})) == {"turbo": turbo}


def test_memory_in_bytes_and_the_mode_of_huge_pages(tmp_path: Path) -> None:
    tree = {
        "proc/meminfo": "MemTotal:    2048 kB\nMemAvailable: 1024 kB\nSwapTotal: 0 kB\nHugePages_Total: 3",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    }
    assert describe_memory(write_tree(tmp_path, tree)) == {
        "total_bytes": 2 * MIB,
        "available_bytes": MIB,
        "swap_bytes": 0,
        "transparent_huge_pages": "madvise",
    }


V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
)


def v2_tree(group: str, files: Mapping[str, str]) -> dict[str, str]:
    tree = {"proc/self/cgroup": f"0::{group}", "proc/self/mountinfo": V2_MOUNT}
    return tree | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("tree", "limits"),
    [
        (v2_tree("/", {}), {}),
        (v2_tree("/", {"cpu.max": "max 100000", "memory.max": "max"}), {}),
        (
            v2_tree("/", {"cpu.max": "150000 100000", "memory.max": str(4 * MIB)}),
            {"cpu_quota_cores": 1.5, "memory_limit_bytes": 4 * MIB},
        ),
        (
            v2_tree(
                "/a/b",
                {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "a/b/memory.max": str(8 * MIB)},
            ),
            {"cpu_quota_cores": 4.0, "memory_limit_bytes": 8 * MIB},
        ),
        (
            v2_tree("/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "200000 100000"}),
            {"cpu_quota_cores": 2.0},
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/abc/x\n2:cpu,cpuacct:/docker/abc",
                "proc/self/mountinfo": V1_MOUNTS,
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(2 * MIB),
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(6 * MIB),
            },
            {"cpu_quota_cores": 0.5, "memory_limit_bytes": 2 * MIB, "container_guess": "docker"},
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n2:cpu,cpuacct:/",
                "proc/self/mountinfo": V1_MOUNTS.replace("/docker/abc", "/"),
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            {},
        ),
    ],
    ids=[
        "v2, no files",
        "v2, unlimited",
        "v2 of a container",
        "v2, nested",
        "v2, the group above is tighter",
        "v1 of a container",
        "v1, unlimited",
    ],
)
def test_limits_of_control_groups(tmp_path: Path, tree: dict[str, str], limits: dict[str, Any]) -> None:
    assert describe_limits(write_tree(tmp_path, tree), {}) == limits


def test_both_versions_of_control_groups_may_be_mounted(tmp_path: Path) -> None:
    tree = {
        "proc/self/cgroup": "2:cpu:/\n0::/s",
        "proc/self/mountinfo": "1 1 0:1 / /cg/cpu rw - cgroup c rw,cpu\n2 1 0:2 / /cg/u rw - cgroup2 c rw",
    }
    write_tree(tmp_path, tree)
    expected = [tmp_path / name for name in ("cg/cpu", "cg/u/s", "cg/u")]
    assert cgroup_folders(tmp_path, "cpu") == expected
    assert cgroup_folders(tmp_path, "memory") == expected[1:]


@pytest.mark.parametrize(
    ("files", "environment", "kind"),
    [
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": ""}, {}, "podman"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({"proc/self/cgroup": "0::/kubepods.slice/pod7"}, {}, "kubernetes"),
        ({"proc/self/cgroup": "0::/user.slice"}, {}, None),
    ],
)
def test_containers_by_their_traces(
    tmp_path: Path, files: dict[str, str], environment: dict[str, str], kind: str | None
) -> None:
    assert describe_limits(write_tree(tmp_path, files), environment).get("container_guess") == kind


def test_the_lock_is_known_by_its_hash(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    assert lock_hash(lock) is None
    lock.write_bytes(b"torch==2.13.0\n")
    assert lock_hash(lock) == hashlib.sha256(b"torch==2.13.0\n").hexdigest()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\nGCC version: 12.2.0",
            "580.65.06",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124  Release Build", "570.124"),
        ("something else 1.2.3", None),
    ],
    ids=["closed", "open", "foreign"],
)
def test_the_version_of_the_driver(tmp_path: Path, text: str, version: str | None) -> None:
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version


def test_without_a_driver_there_is_no_version(tmp_path: Path) -> None:
    assert driver_version(tmp_path / "version") is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system knows no affinity")
@pytest.mark.parametrize(
    ("cpus", "text"), [([0], "0"), ([0, 1, 2, 3], "0-3"), ([8, 0, 1, 5], "0-1,5,8")], ids=str
)
def test_the_affinity_in_the_kernels_words(
    monkeypatch: pytest.MonkeyPatch, cpus: list[int], text: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cpus))
    assert usable_cpus() == text


class SomeNvml(NullNvml):
    def describe(self, uuid: str) -> dict[str, Any]:
        return {"driver": "580.1", "of": uuid}


@pytest.fixture
def full_host(gpu_host: HostDescription) -> HostDescription:
    return replace(gpu_host, cpu_capability="AVX2")


def test_the_sections_of_a_description(full_host: HostDescription, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    machine = describe_machine(full_host, SomeNvml())
    cpu, gpu = machine["devices"]
    assert cpu["name"] == "some CPU"
    assert "driver" not in cpu
    assert (gpu["name"], gpu["driver"], gpu["of"]) == ("some GPU", "580.1", "GPU-0")
    assert machine["libraries"] == {"torch": "2.13.0", "cuda": "13.0"}
    assert machine["threads"]["num_torch_threads"] == 2
    assert machine["threads"]["OMP_NUM_THREADS"] == "2"
    assert machine["variables"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert machine["system"]["python"] == "3.11.7"
    assert machine["cpu"]["torch_capability"] == "AVX2"
    assert machine["code"]["source_hash"]
    text = json.dumps(machine, allow_nan=False)
    assert "secret" not in text
    assert "null" not in text, "what is unknown is left out"


def test_this_machine_is_described() -> None:
    """Of the real `/proc` and `/sys`: what Linux always tells, and that the parts agree."""
    cpu, memory = describe_cpu(), describe_memory()
    assert cpu["num_logical_cores"] >= cpu["num_physical_cores"] >= cpu["num_sockets"] >= 1
    assert memory["total_bytes"] >= memory["available_bytes"] > 0
    assert describe_system()["kernel"].startswith("Linux")
    assert all(values(cpu))


def values(section: Mapping[str, Any]) -> Iterator[bool]:
    """Whether each value is known."""
    for value in section.values():
        yield from values(value) if isinstance(value, Mapping) else [value is not None]


def test_a_worker_tells_its_build_of_torch() -> None:
    host = describe_host()
    assert host.libraries["torch"]
    assert host.cpu_capability
    assert {"onednn", "mkl"} & host.libraries.keys(), "one of them multiplies matrices on every CPU build"
