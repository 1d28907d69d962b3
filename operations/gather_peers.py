"""Gathers the peers' wheels for a GPU host without a network: Linux on x86-64, Python 3.12, CUDA 13.

    make peer-wheels
    make peer-wheels ARGS="--peer flashinfer --peer flash_attn_3"

The wheels are what pip downloads, packed anew: with LZMA, which pip unpacks too, and without files that
serve nothing there. What was left out stands in LEFT_OUT, beside the wheel's metadata. What these packages
need besides is common, and not gathered: numpy, einops, filelock, ninja, packaging, requests, tabulate, tqdm.

FlashInfer compiles a kernel when it is first asked for one, with nvcc and ninja of that host: seconds for
decoding, minutes for prefill. Its kernels are not built here, since that needs nvcc, and which of them
are needed follows from what is measured: prebuild_flashinfer.py makes a wheel of the usual ones.

FlashAttention-2 is source only, and the compiler of FlashAttention-4 alone is 92 MB: neither is gathered.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import io
import shlex
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

PYTHON_VERSION = "3.12"
PLATFORMS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 24, 27, 28, 31, 34, 35, 39)))
"""Pip takes each literally; Ubuntu 24.04 has glibc 2.39."""


@dataclass(frozen=True)
class Wheel:
    """A pinned package, why it is gathered, and which of its files are not."""

    name: str
    version: str
    reason: str
    left_out: tuple[str, ...] = ()

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version}"


TVM_FFI = Wheel("apache-tvm-ffi", "0.1.12", "how FlashInfer's kernels and CuTe DSL are called from Python")
PEERS = {
    "flashinfer": (
        Wheel(
            "flashinfer-python",
            "0.6.15.post1",
            "the kernels fa2, fa3 and XQA; it imports without CUTLASS's Python packages",
            (
                *(f"flashinfer/data/cutlass/{folder}/*" for folder in ("examples", "python", "test")),
                *(f"flashinfer/data/cccl/{folder}/*" for folder in ("benchmarks", "ci", "docs", "python")),
                "flashinfer/data/cccl/*/test/*",
            ),
        ),
        TVM_FFI,
    ),
    "flash_attn_3": (
        Wheel(
            "tokenspeed-fa3",
            "3.0.0.post20260810",
            "flash_attn_interface for CUDA 13, with pages and float16; an unofficial build",
        ),
    ),
    "xformers": (
        Wheel(
            "xformers",
            "0.0.35",
            "its split-K kernel is Triton's; its C++ half is for another PyTorch and would not load",
            ("xformers/_C.so", "xformers/benchmarks/*"),
        ),
    ),
    "cudnn": (
        Wheel(
            "nvidia-cudnn-frontend",
            "1.26.0",
            "graphs for the cuDNN that PyTorch brings",
            ("include/*",),
        ),
    ),
    "cupti": (
        Wheel(
            "cupti-python",
            "13.0.1",
            "times of kernels, by the CUPTI of CUDA 13.0 that PyTorch brings",
            ("cupti-python-samples/*",),
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", choices=list(PEERS), action="append", help="default: all")
    parser.add_argument("--into", type=Path, default=Path("wheelhouse-peers"), metavar="FOLDER")
    arguments = parser.parse_args()
    chosen = dict.fromkeys(wheel for peer in arguments.peer or PEERS for wheel in PEERS[peer])
    arguments.into.mkdir(parents=True, exist_ok=True)
    wheels = [gather(wheel, arguments.into) for wheel in chosen]
    num_bytes = sum(path.stat().st_size for path in wheels)
    print(f"{len(wheels)} wheels, {num_bytes / 1e6:.1f} MB in {arguments.into}/")
    pins, folder = " ".join(wheel.pin for wheel in chosen), shlex.quote(str(arguments.into))
    print("On the host, where that folder is, install them with:")
    print(f"  python3 -m pip install --no-index --no-deps --find-links {folder} {pins}")
    print("or beside its packages: with --target FOLDER, and PYTHONPATH=FOLDER when measuring.")


def gather(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel, pack it anew into `folder`, and say what became of it."""
    with tempfile.TemporaryDirectory() as downloads:
        original = download(wheel, Path(downloads))
        packed = folder / original.name
        print(f"{wheel.pin}: {wheel.reason}", flush=True)
        num_left_out = pack(original, packed, wheel.left_out)
        sizes = f"{original.stat().st_size / 1e6:.1f} MB, packed {packed.stat().st_size / 1e6:.1f} MB"
    without = f"; {num_left_out} files left out: {' '.join(wheel.left_out)}" if num_left_out else ""
    print(f"  {sizes}{without}", flush=True)
    return packed


def download(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel that pip would install on the host."""
    abis = [f"cp{PYTHON_VERSION.replace('.', '')}", "abi3", "none"]
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON_VERSION,
        *(part for abi in abis for part in ("--abi", abi)),
        *(part for platform in PLATFORMS for part in ("--platform", f"{platform}_x86_64")),
        "--dest", str(folder), wheel.pin,
    ]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{wheel.pin}: pip could not download it")
    (path,) = folder.glob("*.whl")
    return path


def pack(original: Path, packed: Path, left_out: tuple[str, ...] = ()) -> int:
    """Write a wheel anew with LZMA, without the files whose names match; how many those were.

    Its RECORD no longer names them, and a file LEFT_OUT beside it does.
    """
    unfinished = packed.with_suffix(".unfinished")
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_LZMA) as target:
        names = [entry.filename for entry in source.infolist() if not entry.is_dir()]
        gone = {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in left_out)}
        for entry in source.infolist():
            if entry.filename in gone or entry.is_dir():
                continue
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                notice = f"{entry.filename.removesuffix('RECORD')}LEFT_OUT"
                content = _record_without(content, gone, notice if gone else None)
                if gone:
                    target.writestr(notice, "".join(f"{name}\n" for name in sorted(gone)))
            fresh = zipfile.ZipInfo(entry.filename, entry.date_time)
            fresh.external_attr = entry.external_attr
            fresh.compress_type = zipfile.ZIP_LZMA
            target.writestr(fresh, content)
    unfinished.replace(packed)
    return len(gone)


def _record_without(record: bytes, gone: set[str], notice: str | None) -> bytes:
    rows = [row for row in csv.reader(io.StringIO(record.decode())) if row and row[0] not in gone]
    if notice is not None:
        rows.append([notice, "", ""])
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue().encode()


if __name__ == "__main__":
    main()
