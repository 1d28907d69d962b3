"""The reference runs of a machine: studies measured part by part, the claims of GQA held against them.

    make reference-runs ARGS="--part kv_heads_decode --part kv_heads_prefill --seconds 480"
    make reference-runs ARGS="--baselines"

Each part is one sweep. One that is not done within `--seconds` is interrupted, keeps what it has, and goes on
when it is asked for again, also on another machine of the kind that has the folder of runs. `claims.json`,
beside the runs, says what was found (`claims_of_gqa.py`). With `--baselines` the studies that are complete
become `results/baselines/MACHINE/STUDY/`. `--rehearse` takes tiny problems, as is done where there is no GPU,
keeps them in a folder `rehearsal`, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from claims_of_gqa import claims
from sweep_parts import (
    PROGRAM,
    REHEARSAL,
    ROOT,
    Parts,
    from_root,
    is_rehearsal,
    positive_seconds,
    run_script,
)

from gqabench import results

DECODE_IMPLS = (
    "repeat_kv", "repeat_kv_sdpa", "grouped_matmul", "folded_sdpa", "sdpa", "sdpa_flash", "sdpa_cudnn",
    "sdpa_efficient", "sdpa_math", "flex", "triton_decode", "flashinfer_decode", "flashinfer_xqa",
    "flash_attn_3", "xformers_splitk", "cudnn_paged", "torch_varlen",
)  # fmt: skip
PREFILL_IMPLS = (
    "repeat_kv_sdpa", "sdpa", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa_math", "flex",
    "triton_prefill", "flashinfer_prefill", "flash_attn_3", "torch_varlen",
)  # fmt: skip
WITH_ENERGY = ("kv_heads_decode", "kv_heads_prefill", "models_decode")
"""Energy takes as long as all the rest of a record."""
AGAIN = "again"
"""The first part once more, of equal code: what `compare` finds between the two is false."""


@dataclass(frozen=True)
class Part:
    """One sweep: a study in one phase, as large as a GPU needs it to be busy."""

    study: str
    phase: str
    keys: tuple[str, ...]

    def overrides(self, has_energy: bool) -> list[str]:
        """Of the sweep."""
        impls = DECODE_IMPLS if self.phase == "decode" else PREFILL_IMPLS
        energy = [] if has_energy else ["measure.energy=false"]
        return [*self._phase, *self.keys, "device=cuda", f"impls=[{','.join(impls)}]", *energy]

    def rehearsed(self) -> list[str]:
        """The same on tiny problems, with whatever device there is."""
        shrunk = ["kv_len=32,48"] if self.study == "kv_len" else ["kv_len=48"]
        shrunk += ["model=gqa_8_2", "num_kv_heads=8,2,1"] if self.study != "models" else []
        return [*self._phase, *shrunk, "measure=smoke", "impls=[sdpa,repeat_kv,folded_sdpa]"]

    @property
    def _phase(self) -> list[str]:
        return [f"study={self.study}", f"workload={self.phase}"]


PARTS = {
    "kv_heads_decode": Part("kv_heads", "decode", ("batch_size=16", "kv_len=8192")),
    AGAIN: Part("kv_heads", "decode", ("batch_size=16", "kv_len=8192")),
    "kv_heads_prefill": Part("kv_heads", "prefill", ("batch_size=1", "kv_len=8192")),
    "models_decode": Part("models", "decode", ("batch_size=16", "kv_len=8192")),
    "models_prefill": Part("models", "prefill", ("batch_size=1", "kv_len=4096")),
    "kv_len_decode": Part("kv_len", "decode", ("batch_size=16", "kv_len=1024,4096,16384,65536")),
    "kv_len_prefill": Part("kv_len", "prefill", ("batch_size=1", "kv_len=1024,4096,16384")),
    "batch_decode": Part("batch", "decode", ("batch_size=1,4,16,64", "kv_len=8192")),
    "batch_prefill": Part("batch", "prefill", ("batch_size=1,4,16", "kv_len=2048")),
    "frontier_decode": Part("frontier", "decode", ("batch_size=1,4,16,64,128", "kv_len=4096")),
}
"""In the order in which they are worth having."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=list(PARTS), action="append", help="default: all, in order")
    parser.add_argument("--seconds", type=positive_seconds, default=480.0, help="of one part; default: 480")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), metavar="FOLDER")
    parser.add_argument("--rehearse", action="store_true", help="tiny problems, on whatever device there is")
    parser.add_argument("--baselines", action="store_true", help="write the baselines, and measure nothing")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="default: results/baselines")
    arguments = parser.parse_args()
    if arguments.baselines:
        if arguments.runs.resolve().name == REHEARSAL and arguments.into is None:
            parser.error(f"--runs {arguments.runs}: a rehearsal becomes no baseline but where --into says")
        write_baselines(Parts(arguments.runs), arguments.into or Path("results/baselines"))
        return
    rehearses = is_rehearsal(arguments.rehearse)
    folder = arguments.runs / REHEARSAL if rehearses else arguments.runs
    parts = Parts(folder)
    for name in arguments.part or PARTS:
        part = PARTS[name]
        parts.measure(
            name, part.rehearsed() if rehearses else part.overrides(name in WITH_ENERGY), arguments.seconds
        )
    studied = [name for name in PARTS if name != AGAIN]
    found = claims(parts, decode="kv_heads_decode", again=AGAIN, everything=studied)
    path = folder / "claims.json"
    path.write_text(json.dumps({"rehearsal": rehearses} | found, indent=1) + "\n")
    print(f"written: {path}")
    if rehearses:
        print("a rehearsal on tiny problems: its times mean nothing")


def write_baselines(parts: Parts, into: Path) -> None:
    """A baseline for each study whose parts are all complete."""
    for study in dict.fromkeys(part.study for part in PARTS.values()):
        names = [name for name, part in PARTS.items() if part.study == study and name != AGAIN]
        if missing := [name for name in names if not parts.is_complete(name)]:
            print(f"{study}: not complete: {', '.join(missing)}")
            continue
        runs = [from_root(run) for name in names if (run := parts.run_of(name)) is not None]
        devices = sorted(set(pd.concat([results.load(ROOT / run) for run in runs])["device_name"].dropna()))
        if len(devices) > 1:
            print(f"{study}: of several devices, so no baseline: {', '.join(devices)}")
            continue
        update = ["baseline", "update", *runs, "--study", study, "--into", from_root(into)]
        subprocess.run([*PROGRAM, *update], cwd=ROOT, check=True)


if __name__ == "__main__":
    run_script(main)
