"""Packs what a GPU host without a network lacks into one folder: Linux on x86-64, Python 3.12, CUDA 13.

    make gpu-kit
    make gpu-kit ARGS="--skip-kernels"

The folder gets the wheels of `make wheelhouse` that a host with PyTorch and the usual scientific packages may
lack, the peers' wheels (`gather_peers.py`), and FlashInfer's kernels built ahead where there is nvcc
(`prebuild_flashinfer.py`). What is there is not made again. The command that the host runs for a piece is
printed last.

FlashInfer's own prefill kernel for Hopper (fa3) takes a quarter of an hour to build, and is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gather_peers import PEERS, TVM_FFI, gather

OPERATIONS = Path(__file__).parent
MOST_MIB = 60.0
KERNELS_GLOB = "gqabench_flashinfer_kernels-*.whl"
PREBUILT = (
    "--kind decode --kind prefill_fa2",
    "--kind xqa --group-size 4 --group-size 32 --group-size 1 --group-size 8",
    "--kind prefill_fa2 --kind xqa --head-dim 64 --group-size 8",  # gpt-oss-120b
    "--kind prefill_fa2 --kind xqa --head-dim 64 --group-size 8 --window",
    "--kind decode --kind xqa --group-size 2 --window",  # Gemma 3 27B
    "--kind xqa --group-size 2 --group-size 5",  # Gemma 3 27B, Llama 4
)
"""Arguments of `prebuild_flashinfer.py`, in the order of the pieces: the kernels of pieces 1 to 4."""
BUILD_NEEDS = ("requests", "einops", "tabulate", "tqdm", "ninja")
"""What FlashInfer imports, or builds with, beside what this project needs."""
PAGE_SIZE = "16"
"""Of the implementations, where a problem asks for none."""
ON_THE_HOST = "torch|transformers|huggingface_hub|networkx|sympy|onnx|hf_xet|tokenizers|setuptools|gqabench"
"""Beginnings of wheels' names, `|` between them: PyTorch's own needs, large packages that no piece uses, and
this project, which runs from its checkout."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=Path("gpu-kit"), metavar="FOLDER")
    parser.add_argument("--wheelhouse", type=Path, default=Path("wheelhouse"), metavar="FOLDER")
    parser.add_argument("--skip-kernels", action="store_true", help="build none of FlashInfer's ahead")
    parser.add_argument("--peer", choices=list(PEERS), action="append", help="default: all")
    arguments = parser.parse_args()
    kit: Path = arguments.into
    kit.mkdir(parents=True, exist_ok=True)
    if not arguments.wheelhouse.is_dir():
        parser.error(
            f"--wheelhouse {arguments.wheelhouse}: there is none; run make wheelhouse HOST_PYTHONS=3.12"
        )
    copy_small_wheels(arguments.wheelhouse, kit)
    gather_peers(arguments.peer or list(PEERS), kit)
    if not arguments.skip_kernels and "flashinfer" in (arguments.peer or PEERS):
        prebuild_kernels(kit)
    report_size(kit)
    print_commands(kit)


def copy_small_wheels(wheelhouse: Path, kit: Path) -> None:
    """Copy the wheels that the host may lack."""
    left_out = tuple(ON_THE_HOST.split("|"))
    for wheel in sorted(wheelhouse.glob("*.whl")):
        if not wheel.name.lower().startswith(left_out):
            shutil.copy2(wheel, kit)


def gather_peers(peers: list[str], kit: Path) -> None:
    """Gather the peers' wheels, but for those that are there."""
    for wheel in dict.fromkeys(wheel for peer in peers for wheel in PEERS[peer]):
        if not list(kit.glob(f"{wheel.name.replace('-', '_')}-{wheel.version}-*.whl")):
            gather(wheel, kit)


def prebuild_kernels(kit: Path) -> None:
    """Build FlashInfer's kernels, where nvcc is; the host builds what is missing at first use, in minutes."""
    if list(kit.glob(KERNELS_GLOB)):
        return
    if shutil.which("nvcc") is None:
        print("no nvcc here: FlashInfer's kernels are not built ahead", flush=True)
        return
    with tempfile.TemporaryDirectory() as site:
        flashinfer = next(
            kit.glob("flashinfer_python-*.whl")
        )  # pure Python; the other is for the host's Python
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", site]
        subprocess.run([*install, *BUILD_NEEDS], check=True)
        subprocess.run([*install, "--no-deps", str(flashinfer), TVM_FFI.pin], check=True)
        environment = build_environment(Path(site))
        script = [sys.executable, str(OPERATIONS / "prebuild_flashinfer.py"), "--into", str(kit)]
        for arguments in PREBUILT:
            started = time.monotonic()
            command = [*script, "--page-size", PAGE_SIZE, *arguments.split()]
            built = subprocess.run(command, env=environment, check=False)
            if built.returncode:
                print(f"not built, so the host builds them at first use: {arguments}", flush=True)
            print(f"{arguments}: {time.monotonic() - started:.0f} s", flush=True)


def build_environment(site: Path) -> dict[str, str]:
    """Return the variables for a build: packages of `site`, CUDA's libraries, and a stub of the driver's.

    A kernel is linked with `-lcuda`, which only a driver or a whole toolkit brings. Nothing is taken from the
    stub but its name.
    """
    stub = site / "stub"
    stub.mkdir()
    name_of_driver = ("-Wl,-soname,libcuda.so.1", "-o", str(stub / "libcuda.so"))
    subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", *name_of_driver], check=True)
    toolkits = (os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    folders = [f"{toolkit}/{folder}" for toolkit in toolkits if toolkit for folder in ("lib64", "lib")]
    return os.environ | {
        "PYTHONPATH": _joined(str(site), os.environ.get("PYTHONPATH")),
        "LIBRARY_PATH": _joined(*folders, os.environ.get("LIBRARY_PATH"), str(stub)),
    }


def _joined(*folders: str | None) -> str:
    return ":".join(folder for folder in folders if folder)


def report_size(kit: Path) -> None:
    """Print the size of the folder. Ends the program where it is too large to be carried in one go."""
    sizes = {wheel.name: wheel.stat().st_size / 2**20 for wheel in kit.glob("*.whl")}
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:3]
    total = sum(sizes.values())
    print(f"{len(sizes)} wheels, {total:.1f} MiB in {kit}/")
    if total > MOST_MIB:
        named = ", ".join(f"{name} ({sizes[name]:.1f})" for name in largest)
        raise SystemExit(f"more than {MOST_MIB:.0f} MiB; the largest: {named}")


def print_commands(kit: Path) -> None:
    """Print what to run on the host, in a checkout with the kit beside it."""
    print("On the host, in a checkout with that folder, for piece N (each call ends within 420 s):")
    print(
        "  S=$(date +%s); python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir"
        f" --target /tmp/gpu-kit {kit}/*.whl;"
    )
    print(
        "  PYTHONPATH=/tmp/gpu-kit python3 operations/gpu_verification.py --piece N --since $S"
        " --archive gpu.tar.gz"
    )
    print("What comes back is gpu.tar.gz. To go on elsewhere, first: tar -xzf gpu.tar.gz -C results/runs")


if __name__ == "__main__":
    main()
