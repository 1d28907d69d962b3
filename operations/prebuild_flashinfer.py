"""Builds FlashInfer's kernels ahead, as a wheel that FlashInfer loads them from instead of compiling.

    python operations/prebuild_flashinfer.py --into wheelhouse-peers

Run it where FlashInfer can be imported and a CUDA toolkit is, with nvcc, curand's headers and the stub of
libcuda; no GPU is needed. Any Python will do, since the kernels know none. FlashInfer takes them from the
module `flashinfer_jit_cache` of its own version, which the wheel holds; what is not in it, it compiles.
Runs with other options add to the same wheel.

On two cores a kernel for decoding takes 10 to 20 s, prefill by fa2 a minute and by fa3 a quarter of an hour.
"""

from __future__ import annotations

import argparse
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODULE = "flashinfer_jit_cache"
NAME = "gqabench_flashinfer_kernels"
KINDS = ("decode", "prefill_fa2", "prefill_fa3", "xqa")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--head-dim", type=int, action="append", help="default: 128")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--window", action="store_true", help="those with a sliding window instead")
    parser.add_argument("--group-size", type=int, action="append", help="of XQA; default: 1, 2, 4, 8, 16, 32")
    parser.add_argument("--page-size", type=int, action="append", help="of XQA; default: 16, 64, 128")
    parser.add_argument("--arch", default="9.0a", help="compute capability; default: 9.0a, Hopper")
    parser.add_argument("--work", type=Path, default=Path("build/flashinfer"), metavar="FOLDER")
    parser.add_argument("--into", type=Path, default=Path("wheelhouse-peers"), metavar="FOLDER")
    arguments = parser.parse_args()
    # FlashInfer reads both when it is imported.
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = arguments.arch
    os.environ["FLASHINFER_WORKSPACE_BASE"] = str(arguments.work.resolve())
    for spec in specs(arguments):
        build(spec)
    wheel = write_wheel(libraries(), arguments.into)
    print(f"written: {wheel}, {wheel.stat().st_size / 1e6:.1f} MB; install it beside FlashInfer with:")
    print(f"  python3 -m pip install --no-index --no-deps {wheel}")


def specs(arguments: argparse.Namespace) -> Iterator[Any]:
    """Return what is to be built: FlashInfer's own descriptions, by the names that it looks for."""
    import torch
    from flashinfer.jit.attention.modules import gen_batch_decode_module, gen_batch_prefill_module
    from flashinfer.jit.xqa import gen_xqa_module

    dtype = getattr(torch, arguments.dtype)
    kinds = arguments.kind or KINDS
    for head_dim in arguments.head_dim or [128]:
        common = (dtype, dtype, dtype, torch.int32, head_dim, head_dim, 0, arguments.window, False)
        if "decode" in kinds:
            yield gen_batch_decode_module(*common)
        for backend in ("fa2", "fa3"):
            if f"prefill_{backend}" in kinds:
                yield gen_batch_prefill_module(backend, *common, False)
        if "xqa" in kinds:
            for page_size in arguments.page_size or (16, 64, 128):
                for group_size in arguments.group_size or (1, 2, 4, 8, 16, 32):
                    yield gen_xqa_module(
                        dtype, dtype, page_size, head_dim, group_size, arguments.window, dtype, 1
                    )


def build(spec: Any) -> None:
    """Build what is described, unless it is there."""
    started = time.perf_counter()
    library = Path(spec.jit_library_path)
    if not library.exists():
        spec.build(verbose=False)
    seconds = time.perf_counter() - started
    print(f"{spec.name}: {seconds:.0f} s, {library.stat().st_size / 1e3:.0f} kB", flush=True)


def libraries() -> list[Path]:
    """Return what is there, of this run and of earlier ones."""
    from flashinfer.jit import env

    return sorted(Path(env.FLASHINFER_JIT_DIR).glob("*/*.so"))


def write_wheel(libraries: list[Path], folder: Path) -> Path:
    """Return a wheel of `flashinfer_jit_cache` with these libraries, for Linux on x86-64."""
    from flashinfer.version import __version__ as version

    info = f"{NAME}-{version}.dist-info"
    texts = {
        f"{MODULE}/__init__.py": (
            f'"""Kernels of FlashInfer, built ahead by GQABench."""\n\nfrom pathlib import Path\n\n'
            f'__version__ = "{version}"\n\n\ndef get_jit_cache_dir() -> str:\n'
            '    return str(Path(__file__).parent / "jit_cache")\n'
        ),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\nLicense: Apache-2.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: gqabench\nRoot-Is-Purelib: false\n"
        "Tag: py3-none-manylinux_2_17_x86_64\n",
    }
    contents = {name: text.encode() for name, text in texts.items()}
    contents |= {
        f"{MODULE}/jit_cache/{path.parent.name}/{path.name}": path.read_bytes() for path in libraries
    }
    record = "".join(f"{name},,\n" for name in [*contents, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{NAME}-{version}-py3-none-manylinux_2_17_x86_64.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in (contents | {f"{info}/RECORD": record.encode()}).items():
            archive.writestr(name, content)
    return wheel


if __name__ == "__main__":
    main()
