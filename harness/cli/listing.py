"""`gqabench list impls|shapes|studies|runs`: implementations, and which run here; models; studies; runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.cost import kv_cache_bytes_per_token
from gqabench.conf import list_presets, read_preset
from gqabench.harness.cli.commands import LISTINGS
from gqabench.harness.cli.text_table import print_table

_DEFAULT_RESULTS_DIR = Path("results/runs")


def main(arguments: list[str]) -> int:
    """Run `gqabench list` and return its exit code."""
    parser = argparse.ArgumentParser(prog="gqabench list", description=__doc__)
    parser.add_argument("what", choices=LISTINGS)
    parser.add_argument(
        "--results-dir", type=Path, default=_DEFAULT_RESULTS_DIR, help="folder whose runs `runs` lists"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds that `impls` waits for each import"
    )
    parsed = parser.parse_args(arguments)
    _LISTINGS[parsed.what](parsed)
    return 0


def _list_shapes(_: argparse.Namespace) -> None:
    rows = []
    for name in list_presets("model"):
        values = read_preset("model", name).values
        problem = AttentionProblem(
            batch_size=1,
            q_len=1,
            kv_len=1,
            num_q_heads=values["num_q_heads"],
            num_kv_heads=values["num_kv_heads"],
            head_dim=values["head_dim"],
            dtype="bfloat16",
            device="cpu",
        )
        per_token = values["num_layers"] * kv_cache_bytes_per_token(problem)
        rows.append(
            [
                name,
                *(values[key] for key in ("num_q_heads", "num_kv_heads")),
                problem.group_size,
                *(values[key] for key in ("head_dim", "num_layers")),
                values.get("window", "-"),
                per_token,
            ]
        )
    print_table(
        [
            "model",
            "q heads",
            "KV heads",
            "group",
            "head dim",
            "layers",
            "window",
            "cache bytes/token, 16 bit",
        ],
        rows,
    )


def _list_studies(_: argparse.Namespace) -> None:
    rows = []
    for name in list_presets("study"):
        preset = read_preset("study", name)
        params = preset.values["hydra"]["sweeper"]["params"]
        rows.append([name, preset.about, "  ".join(f"{key}={value}" for key, value in params.items())])
    print_table(["study", "about", "axes"], rows, left_columns=3)


def _list_runs(parsed: argparse.Namespace) -> None:
    from gqabench.results.store.run_folder import list_runs

    rows = []
    for folder in list_runs(parsed.results_dir):
        header = folder.header()
        device = next((entry["name"] for entry in reversed(header.machine.get("devices", []))), "-")
        rows.append([header.run_id, header.status, header.num_planned_records, header.measure, device])
    if rows:
        print_table(["run", "status", "records planned", "measure", "device"], rows)
    else:
        print(f"no runs in {parsed.results_dir}")


def _list_impls(parsed: argparse.Namespace) -> None:
    from gqabench.harness.cli.impl_listing import PHASES, list_support

    listing = list_support(parsed.timeout)
    print(f"on {listing.device}, 32/8 heads, head_dim 128, causal:")
    print_table(["impl", *PHASES, "why not"], listing.rows, left_columns=5)
    if listing.plugins:
        print("\nplug-ins:")
        print_table(["impl", "package"], listing.plugins, left_columns=2)


_LISTINGS: dict[str, Callable[[argparse.Namespace], None]] = {
    "impls": _list_impls,
    "runs": _list_runs,
    "shapes": _list_shapes,
    "studies": _list_studies,
}
