"""The reference runs of a machine: studies measured part by part, the claims of GQA held against them.

    make reference-runs ARGS="--part kv_heads_decode --part kv_heads_prefill --seconds 540"
    make reference-runs ARGS="--baselines"

Each part is one sweep. One that is not done within `--seconds` is interrupted, keeps what it has, and goes on
when it is asked for again. `claims.json`, beside the runs, says what was found: cache bytes by number of KV
heads, decode times relative to MHA, rows above their roof, and alarms between two equal runs (part `again`).
With `--baselines` the studies that are complete become `results/baselines/MACHINE/STUDY/`.

Without a CUDA device it rehearses itself on tiny problems, and says so in the file.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

import results  # noqa: E402

PROGRAM = "import sys; from harness.cli import main; sys.exit(main())"
DECODE_IMPLS = (
    "repeat_kv", "repeat_kv_sdpa", "grouped_matmul", "folded_sdpa", "sdpa", "sdpa_flash", "sdpa_cudnn",
    "sdpa_math", "flex", "triton_decode", "flashinfer_decode", "flash_attn_3", "xformers_splitk",
    "cudnn_paged", "torch_varlen",
)  # fmt: skip
PREFILL_IMPLS = (
    "repeat_kv_sdpa", "sdpa", "sdpa_flash", "sdpa_cudnn", "flex", "triton_prefill", "flashinfer_prefill",
    "flash_attn_3", "torch_varlen",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One sweep: a study in one phase, as large as a GPU needs it to be busy."""

    study: str
    phase: str
    keys: tuple[str, ...]

    def overrides(self, is_rehearsal: bool) -> list[str]:
        impls = DECODE_IMPLS if self.phase == "decode" else PREFILL_IMPLS
        overrides = [f"study={self.study}", f"workload={self.phase}"]
        if is_rehearsal:
            shrunk = [] if self.study == "kv_len" else ["kv_len=48"]
            shrunk += ["kv_len=32,48"] if self.study == "kv_len" else []
            shrunk += ["model=gqa_8_2", "num_kv_heads=8,2,1"] if self.study != "models" else []
            return [*overrides, *shrunk, "measure=smoke", "impls=[sdpa,repeat_kv,folded_sdpa]"]
        return [*overrides, *self.keys, "device=cuda", f"impls=[{','.join(impls)}]"]


PARTS = {
    "kv_heads_decode": Part("kv_heads", "decode", ("batch_size=16", "kv_len=8192")),
    "kv_heads_prefill": Part("kv_heads", "prefill", ("batch_size=1", "kv_len=8192")),
    "kv_len_decode": Part("kv_len", "decode", ("batch_size=16", "kv_len=1024,4096,16384,65536")),
    "kv_len_prefill": Part("kv_len", "prefill", ("batch_size=1", "kv_len=1024,4096,16384")),
    "batch_decode": Part("batch", "decode", ("batch_size=1,4,16,64", "kv_len=8192")),
    "batch_prefill": Part("batch", "prefill", ("batch_size=1,4,16", "kv_len=2048")),
    "models_decode": Part("models", "decode", ("batch_size=16", "kv_len=8192")),
    "models_prefill": Part("models", "prefill", ("batch_size=1", "kv_len=4096")),
    "frontier_decode": Part("frontier", "decode", ("batch_size=1,4,16,64,128", "kv_len=4096")),
    "again": Part("kv_heads", "decode", ("batch_size=16", "kv_len=8192")),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=list(PARTS), action="append", help="default: all, in order")
    parser.add_argument("--seconds", type=float, default=600.0, help="of one part; default: 600")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), metavar="FOLDER")
    parser.add_argument("--baselines", action="store_true", help="write the baselines, and measure nothing")
    parser.add_argument("--into", type=Path, default=Path("results/baselines"), metavar="FOLDER")
    arguments = parser.parse_args()
    import torch

    is_rehearsal = not torch.cuda.is_available()
    # Apart: what was rehearsed here must not count as measured once there is a GPU, nor become a baseline.
    is_rehearsed = is_rehearsal and not arguments.baselines
    state = State(arguments.runs / ("rehearsed_parts.json" if is_rehearsed else "parts.json"))
    if arguments.baselines:
        write_baselines(state, arguments.into)
        return
    for name in arguments.part or PARTS:
        measure(name, state, arguments.seconds, is_rehearsal)
    report = {"rehearsal": is_rehearsal} | claims(state)
    path = arguments.runs / "claims.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {path}")
    if is_rehearsal:
        print("a rehearsal without a GPU: its times mean nothing")


class State:
    """Which run each part has, in a file beside the runs: one that was interrupted goes on with its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def folder(self) -> Path:
        return self._path.parent

    def run_of(self, part: str) -> Path | None:
        return self.folder / self._runs[part] if part in self._runs else None

    def remember(self, part: str, run: Path) -> None:
        self._runs[part] = run.name
        self._path.write_text(json.dumps(self._runs, indent=1) + "\n")

    def is_complete(self, part: str) -> bool:
        run = self.run_of(part)
        return run is not None and json.loads((run / "run.json").read_text())["status"] == "complete"

    def frame_of(self, *parts: str) -> pd.DataFrame | None:
        """The records of those parts that have any."""
        frames = [results.load(run) for part in parts if (run := self.run_of(part)) is not None]
        return pd.concat(frames, ignore_index=True) if frames else None


def measure(name: str, state: State, seconds: float, is_rehearsal: bool) -> None:
    """Run a part, or go on with it, for at most some seconds."""
    if state.is_complete(name):
        print(f"{name}: complete")
        return
    state.folder.mkdir(parents=True, exist_ok=True)
    before = state.run_of(name)
    resume = [] if before is None else [f"resume={before}"]
    overrides = [*PARTS[name].overrides(is_rehearsal), f"results_dir={state.folder}", *resume]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, "sweep", *overrides], cwd=ROOT)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    run = (state.folder / "latest").resolve()
    if process.returncode not in (0, 1, 130) or not (run / "run.json").exists():
        raise SystemExit(f"{name}: the sweep ended with exit code {process.returncode}")
    state.remember(name, run)
    print(f"{name}: {'complete' if state.is_complete(name) else 'interrupted; ask for it again'}", flush=True)


def claims(state: State) -> dict[str, Any]:
    """What the literature says of GQA, from what was measured; null where nothing was."""
    decode = state.frame_of("kv_heads_decode")
    everything = state.frame_of(*(part for part in PARTS if part != "again"))
    return {
        "cache_bytes_by_kv_heads": None if decode is None else cache_by_heads(decode),
        "decode_ms_relative_to_mha": None if decode is None else relative_to_mha(decode),
        "rows_above_their_roof": None if everything is None else above_roof(everything),
        "outcomes": None if everything is None else everything["outcome"].value_counts().to_dict(),
        "not_ok": None if everything is None else reasons(everything),
        "alarms_between_equal_runs": compare(state.run_of("kv_heads_decode"), state.run_of("again")),
    }


def cache_by_heads(frame: pd.DataFrame) -> dict[str, list[int]]:
    """Bytes as held, distinct over implementations, by number of KV heads."""
    ok = frame[frame["outcome"] == "ok"]
    return {
        str(heads): sorted(set(map(int, rows)))
        for heads, rows in ok.groupby("num_kv_heads")["kv_cache_bytes"]
    }


def relative_to_mha(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Latency by implementation and number of KV heads, over its own with as many as query heads."""
    ok = frame[frame["outcome"] == "ok"]
    table = ok.pivot_table(index="impl", columns="num_kv_heads", values="latency_ms")
    relative = table.div(table[ok["num_q_heads"].iloc[0]], axis=0).dropna(how="all")
    return {
        str(impl): {str(heads): round(value, 4) for heads, value in row.dropna().items()}
        for impl, row in relative.iterrows()
    }


def above_roof(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows that claim more than the machine has."""
    rows = frame[frame["roof_fraction"].astype(float) > 1]
    return json.loads(
        rows[["impl", "phase", "batch_size", "kv_len", "roof_fraction"]].to_json(orient="records")
    )


def reasons(frame: pd.DataFrame) -> dict[str, list[str]]:
    """By implementation, why some of its rows are not `ok`."""
    rows = frame[frame["outcome"] != "ok"]
    return {str(impl): sorted(set(map(str, of_impl))) for impl, of_impl in rows.groupby("impl")["reason"]}


def compare(base: Path | None, new: Path | None) -> dict[str, Any] | None:
    """What `gqabench compare` makes of two runs of equal code: every alarm is a false one."""
    if base is None or new is None:
        return None
    path = new / "compared.json"
    command = [sys.executable, "-c", PROGRAM, "compare", str(base), str(new), "--json", str(path)]
    subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    answer: dict[str, Any] = json.loads(path.read_text())
    return answer


def write_baselines(state: State, into: Path) -> None:
    """A baseline for each study whose parts are all complete."""
    for study in dict.fromkeys(part.study for part in PARTS.values()):
        parts = [name for name, part in PARTS.items() if part.study == study and name != "again"]
        if open_parts := [name for name in parts if not state.is_complete(name)]:
            print(f"{study}: not complete: {', '.join(open_parts)}")
            continue
        update(study, [str(state.run_of(name)) for name in parts], into)


def update(study: str, runs: Sequence[str], into: Path) -> None:
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "baseline",
        "update",
        *runs,
        "--study",
        study,
        "--into",
        str(into),
    ]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
