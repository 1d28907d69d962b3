"""The reference runs of a machine: studies measured part by part, and the claims of GQA checked.

    make reference-runs ARGS="--part kv_heads_decode --part kv_heads_prefill --seconds 480"
    make reference-runs ARGS="--baselines"

Each part is one sweep. One that is not done within `--seconds` is interrupted, keeps what it has, and goes on
when it is asked for again, also on another machine of the kind that has the folder of runs. `claims.json`,
beside the runs, says what was found (`claims_of_gqa.py`). With `--baselines` the studies that are complete
become `results/baselines/MACHINE/STUDY/`. `end_to_end` alone writes its report while the GPU waits;
`gqabench report` draws the others' from their records. `--rehearse` takes tiny problems, as is done where
there is no GPU, keeps them in a folder `rehearsal`, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from claims_of_gqa import claims
from sweep_parts import (
    PROGRAM,
    REHEARSAL,
    REHEARSED_MEASURE,
    ROOT,
    SHORT_MEASURE,
    Parts,
    from_root,
    is_rehearsal,
    positive_seconds,
    run_script,
)

from gqabench import results

FIRST_DECODE_IMPLS = (
    "triton_decode", "sdpa_flash", "flash_attn_3", "flashinfer_decode", "repeat_kv_sdpa", "sdpa",
)  # fmt: skip
"""What decodes well, what PyTorch takes by itself, and what expands K and V."""
OTHER_DECODE_IMPLS = (
    "grouped_matmul", "repeat_kv", "folded_sdpa", "sdpa_cudnn", "sdpa_efficient", "sdpa_math", "flex",
    "flashinfer_xqa", "xformers_splitk", "cudnn_paged", "torch_varlen",
)  # fmt: skip
FIRST_PREFILL_IMPLS = ("triton_prefill", "sdpa_flash", "flash_attn_3", "repeat_kv_sdpa")
OTHER_PREFILL_IMPLS = (
    "sdpa", "sdpa_cudnn", "sdpa_efficient", "sdpa_math", "flex", "torch_varlen", "flashinfer_prefill",
)  # fmt: skip
AGAIN = "again"
"""The first part once more, of equal code: what `compare` finds between the two is false."""


@dataclass(frozen=True)
class Part:
    """One sweep: a study in one phase, as large as a GPU needs it to be busy."""

    study: str
    phase: str
    keys: tuple[str, ...]
    impls: tuple[str, ...]
    has_energy: bool = False
    """Energy takes as long as all the rest of a record."""
    has_report: bool = False
    is_supplement: bool = False
    """Whether a baseline of the study is one without it."""

    def overrides(self) -> list[str]:
        """Return those of the sweep."""
        energy = ["measure.energy=true"] if self.has_energy else []
        impls = f"impls=[{','.join(self.impls)}]"
        return [*self._phase, *SHORT_MEASURE, *self.keys, "device=cuda", impls, *energy]

    def rehearsed(self) -> list[str]:
        """Return the same on tiny problems, with whatever device there is."""
        shrunk = ["kv_len=32,48"] if self.study == "kv_len" else ["kv_len=48"]
        shrunk += ["model=gqa_8_2", "num_kv_heads=8,1"] if self.study != "models" else []
        impls = "impls=[sdpa]" if self.has_energy else "impls=[sdpa,repeat_kv,folded_sdpa]"
        whole = ["measure.roofs=true", "measure.energy=true"] if self.has_energy else []
        return [*self._phase, *shrunk, *REHEARSED_MEASURE, impls, *whole]

    @property
    def _phase(self) -> list[str]:
        return [f"study={self.study}", f"workload={self.phase}"]


_DECODE = ("batch_size=16", "kv_len=8192")
_PREFILL = ("batch_size=1", "kv_len=8192")
_ALL_DECODE = (*FIRST_DECODE_IMPLS, *OTHER_DECODE_IMPLS)
_ALL_PREFILL = (*FIRST_PREFILL_IMPLS, *OTHER_PREFILL_IMPLS)
GLANCES = {
    "end_to_end": Part(
        "kv_heads",
        "decode",
        ("batch_size=4", "kv_len=2048", "num_kv_heads=32,8,1"),
        ("triton_decode", "sdpa_flash", "repeat_kv_sdpa"),
        has_energy=True,
        has_report=True,
    ),
    "kv_heads_glance": Part("kv_heads", "decode", (*_DECODE, "num_kv_heads=32,8,4,1"), FIRST_DECODE_IMPLS),
    "kv_heads_energy": Part(
        "kv_heads",
        "decode",
        (*_DECODE, "num_kv_heads=32,8,1"),
        ("triton_decode", "flash_attn_3", "repeat_kv_sdpa"),
        has_energy=True,
    ),
}
"""Parts of studies, for a first look: they become no baselines."""
PARTS = {
    "kv_heads_decode": Part("kv_heads", "decode", _DECODE, FIRST_DECODE_IMPLS),
    AGAIN: Part("kv_heads", "decode", _DECODE, FIRST_DECODE_IMPLS),
    "kv_heads_prefill": Part("kv_heads", "prefill", _PREFILL, FIRST_PREFILL_IMPLS),
    "kv_heads_decode_others": Part("kv_heads", "decode", _DECODE, OTHER_DECODE_IMPLS, is_supplement=True),
    "kv_heads_prefill_others": Part("kv_heads", "prefill", _PREFILL, OTHER_PREFILL_IMPLS, is_supplement=True),
    "models_decode": Part("models", "decode", _DECODE, _ALL_DECODE),
    "models_prefill": Part("models", "prefill", ("batch_size=1", "kv_len=4096"), _ALL_PREFILL),
    "kv_len_decode": Part("kv_len", "decode", ("batch_size=16", "kv_len=1024,4096,16384,65536"), _ALL_DECODE),
    "kv_len_prefill": Part("kv_len", "prefill", ("batch_size=1", "kv_len=1024,4096,16384"), _ALL_PREFILL),
    "batch_decode": Part("batch", "decode", ("batch_size=1,4,16,64", "kv_len=8192"), _ALL_DECODE),
    "batch_prefill": Part("batch", "prefill", ("batch_size=1,4,16", "kv_len=2048"), _ALL_PREFILL),
    "frontier_decode": Part("frontier", "decode", ("batch_size=1,4,16,64,128", "kv_len=4096"), _ALL_DECODE),
}
"""In the order in which they are worth having."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--part", choices=[*GLANCES, *PARTS], action="append", help="default: all of the studies, in order"
    )
    parser.add_argument("--seconds", type=positive_seconds, default=480.0, help="of one part; default: 480")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), metavar="FOLDER")
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, on whatever device there is")
    parser.add_argument("--baselines", action="store_true", help="write the baselines, and measure nothing")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="default: results/store/baselines")
    arguments = parser.parse_args()
    if arguments.baselines:
        if arguments.runs.resolve().name == REHEARSAL and arguments.into is None:
            parser.error(f"--runs {arguments.runs}: a rehearsal becomes no baseline but where --into says")
        write_baselines(Parts(arguments.runs), arguments.into or Path("results/store/baselines"))
        return
    rehearses = is_rehearsal(arguments.rehearse)
    folder = arguments.runs / REHEARSAL if rehearses else arguments.runs
    parts = Parts(folder)
    for name in arguments.part or PARTS:
        part = (GLANCES | PARTS)[name]
        overrides = part.rehearsed() if rehearses else part.overrides()
        parts.measure(name, overrides, arguments.seconds, part.has_report)
    decode = "kv_heads_decode" if parts.run_of("kv_heads_decode") else "kv_heads_glance"
    everything = [name for name in (GLANCES | PARTS) if name != AGAIN]
    found = claims(parts, decode=decode, again=AGAIN, everything=everything)
    path = folder / "claims.json"
    path.write_text(json.dumps({"rehearsal": rehearses} | found, indent=1) + "\n")
    print(f"written: {path}")
    if rehearses:
        print("a rehearsal on tiny problems: its times mean nothing")


def write_baselines(parts: Parts, into: Path) -> None:
    """Write a baseline for each study whose parts are complete, but for its supplements."""
    for study in dict.fromkeys(part.study for part in PARTS.values()):
        names = [name for name, part in PARTS.items() if part.study == study and name != AGAIN]
        complete = [name for name in names if parts.is_complete(name)]
        needed = [name for name in names if not PARTS[name].is_supplement]
        if missing := [name for name in needed if name not in complete]:
            print(f"{study}: not complete: {', '.join(missing)}")
            continue
        runs = [from_root(run) for name in complete if (run := parts.run_of(name)) is not None]
        rows = [row for run in runs for row in results.load_runs(ROOT / run).rows]
        devices = sorted({row["device_name"] for row in rows} - {None})
        if len(devices) > 1:
            print(f"{study}: of several devices, so no baseline: {', '.join(devices)}")
            continue
        update = ["baseline", "update", *runs, "--study", study, "--into", from_root(into)]
        subprocess.run([*PROGRAM, *update], cwd=ROOT, check=True)


if __name__ == "__main__":
    run_script(main)
