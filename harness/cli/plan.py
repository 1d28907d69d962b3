"""`gqabench plan --memory SIZE [key=value ...]`: what fits a memory budget, by number of KV heads.

The keys are those of a sweep; a key may have several values, as in
model=llama3_8b,llama3_70b kv_len=8192 kv_dtype=null,int8 tp=8.
The budget is of one device; with tensor parallelism (tp) the numbers are of one rank.
"""

from __future__ import annotations

import argparse

from gqabench.harness.cases.capacity import budget_of
from gqabench.harness.cases.memory_plan import PlanTable, plan_memory
from gqabench.harness.cli.text_table import print_table
from gqabench.harness.errors import UsageError

_TITLES = ["KV heads", "", "group", "cache bytes/token", "tokens", "sequences"]
_WINDOWED_TITLE = "in ring buffers"


def main(arguments: list[str]) -> int:
    """Print a table for each shape; returns the exit code. Raises `UsageError`."""
    from gqabench.harness.sweep.composition import compose_values
    from gqabench.harness.sweep.hydra_errors import mistakes_explained

    parsed = _parse(arguments)
    budget_bytes = budget_of(parsed.memory, parsed.reserved, prefix="--")
    are_heads_given = any(override.startswith("num_kv_heads=") for override in parsed.overrides)
    with mistakes_explained():
        points = compose_values(parsed.overrides)
    for number, table in enumerate(plan_memory(points, budget_bytes, are_heads_given)):
        print("\n" * (number > 0) + _heading(table, parsed))
        _print_table(table, are_heads_given)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gqabench plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="keys of a sweep; default: llama3_8b"
    )
    parser.add_argument(
        "--memory", required=True, metavar="SIZE", help="memory of the device, such as 80GB or 79.6GiB"
    )
    parser.add_argument(
        "--reserved",
        default="0",
        metavar="SIZE",
        help="memory that the cache cannot use: weights, activations",
    )
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for override in parsed.overrides:
        if "=" not in override:
            raise UsageError(f"{override}: must be key=value, such as model=llama3_8b")
    return parsed


def _heading(table: PlanTable, parsed: argparse.Namespace) -> str:
    values = table.values
    name = f"{values['model']}: " if values["model"] else ""
    rank = f", one rank of {values['tp']}" if values["tp"] > 1 else ""
    pages = f" in pages of {values['page_size']}" if values["page_size"] else ""
    reserved = f" less {parsed.reserved} reserved" if parsed.reserved != "0" else ""
    window = f", window {values['window']:,}" if values["window"] else ""
    return (
        f"{name}{values['num_layers']} layers, {values['num_q_heads']} query heads of {values['head_dim']}"
        f"{rank}; cache in {values['kv_dtype'] or values['dtype']}{pages}\n"
        f"{parsed.memory}{reserved}; sequences of {values['kv_len']:,} tokens{window}"
    )


def _print_table(table: PlanTable, are_heads_given: bool) -> None:
    rows: list[list[object]] = []
    for row in table.rows:
        if row.fits is None:
            rows.append([row.num_kv_heads, "", *["-"] * 5])
            continue
        fits = row.fits
        numbers = (fits.bytes_per_token, fits.num_tokens, fits.num_sequences, fits.num_windowed_sequences)
        texts = ("-" if number is None else f"{number:,}" for number in numbers)
        whose = ", the model's" if row.is_asked and not are_heads_given else ""
        rows.append([row.num_kv_heads, f"{row.kind}{whose}", row.group_size, *texts])
    is_windowed = any(row[-1] != "-" for row in rows)
    titles = [*_TITLES, _WINDOWED_TITLE] if is_windowed else _TITLES
    print_table(titles, [row[: len(titles)] for row in rows], left_columns=2)
    tp = table.values["tp"]
    if min(row.num_kv_heads for row in table.rows) < tp:
        print(f"with fewer KV heads than ranks (tp={tp}), each rank keeps a copy of one")
    for reason in dict.fromkeys(row.reason for row in table.rows if row.reason is not None):
        print(reason)
