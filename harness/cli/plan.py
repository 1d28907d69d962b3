"""`gqabench plan --memory SIZE [key=value ...]`: what fits a memory budget, by number of KV heads.

The keys are those of a sweep; a key may have several values, as in
model=llama3_8b,llama3_70b kv_len=8192 kv_dtype=null,int8 tp=8.
The budget is of one device; with tensor parallelism (tp) the numbers are of one rank.
"""

from __future__ import annotations

import argparse
from collections.abc import Container
from typing import Any

from gqabench.attention_impls import InvalidCombination, InvalidProblem
from gqabench.attention_impls.problem import divisors
from gqabench.harness.cases.capacity import Capacity, capacity, parse_size
from gqabench.harness.cases.plan import make_problem, require_counts
from gqabench.harness.cli.text_table import print_table
from gqabench.harness.errors import UsageError
from gqabench.harness.machine.devices import AUTO

_DEFAULT_DTYPE = "bfloat16"
_TITLES = ["KV heads", "", "group", "cache bytes/token", "tokens", "sequences"]
_WINDOWED_TITLE = "in ring buffers"


def main(arguments: list[str]) -> int:
    """Run `gqabench plan` and return its exit code."""
    parsed = _parse(arguments)
    memory, reserved = parse_size("--memory", parsed.memory), parse_size("--reserved", parsed.reserved)
    if reserved >= memory:
        raise UsageError(f"--reserved {parsed.reserved}: must be less than --memory {parsed.memory}")
    are_heads_given = any(override.startswith("num_kv_heads=") for override in parsed.overrides)
    plans = []
    for values, own in _tables(_points(parsed.overrides)):
        heads = own if are_heads_given else divisors(values["num_q_heads"])[::-1]
        plans.append((values, own, _fits(values, heads, memory - reserved)))
    answers = [fits for _, _, by_heads in plans for fits in by_heads.values()]
    if not any(isinstance(fits, Capacity) for fits in answers):
        raise UsageError(f"{answers[0]}")
    for number, (values, own, by_heads) in enumerate(plans):
        print("\n" * (number > 0) + _heading(values, parsed))
        _print_plan(values, [] if are_heads_given else own, by_heads)
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


def _points(overrides: list[str]) -> list[dict[str, Any]]:
    from gqabench.harness.sweep.composition import compose_values
    from gqabench.harness.sweep.hydra_errors import mistakes_explained

    with mistakes_explained():
        points = compose_values(overrides)
    for values in points:
        require_counts(values)
        if values["num_layers"] is None:
            raise UsageError("num_layers=null: must be a positive whole number, or name a model")
    return points


def _tables(points: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[int]]]:
    """Group points that differ only in `num_kv_heads` into one table, with all their numbers."""
    tables: list[tuple[dict[str, Any], list[int]]] = []
    for values in points:
        rest = {key: value for key, value in values.items() if key != "num_kv_heads"}
        if tables and rest == {key: tables[-1][0][key] for key in rest}:
            tables[-1][1].append(values["num_kv_heads"])
        else:
            tables.append((values, [values["num_kv_heads"]]))
    return tables


def _heading(values: dict[str, Any], parsed: argparse.Namespace) -> str:
    name = f"{values['model']}: " if values["model"] else ""
    rank = f", one rank of {values['tp']}" if values["tp"] > 1 else ""
    pages = f" in pages of {values['page_size']}" if values["page_size"] else ""
    reserved = f" less {parsed.reserved} reserved" if parsed.reserved != "0" else ""
    window = f", window {values['window']:,}" if values["window"] else ""
    return (
        f"{name}{values['num_layers']} layers, {values['num_q_heads']} query heads of {values['head_dim']}"
        f"{rank}; cache in {values['kv_dtype'] or _dtype(values)}{pages}\n"
        f"{parsed.memory}{reserved}; sequences of {values['kv_len']:,} tokens{window}"
    )


def _fits(
    values: dict[str, Any], heads: list[int], budget_bytes: int
) -> dict[int, Capacity | InvalidCombination]:
    """Return by number of KV heads what fits, or why there is no such problem."""
    shared = {"device": "cpu", "dtype": _dtype(values)}  # where it runs changes no number
    by_heads: dict[int, Capacity | InvalidCombination] = {}
    for num_kv_heads in heads:
        try:
            problem = make_problem(values | shared | {"num_kv_heads": num_kv_heads})
        except InvalidCombination as error:
            by_heads[num_kv_heads] = error
        except InvalidProblem as error:
            raise UsageError(str(error)) from error
        else:
            by_heads[num_kv_heads] = capacity(problem, values["num_layers"], budget_bytes)
    return by_heads


def _print_plan(
    values: dict[str, Any], own: Container[int], by_heads: dict[int, Capacity | InvalidCombination]
) -> None:
    rows = []
    for num_kv_heads, fits in by_heads.items():
        if isinstance(fits, InvalidCombination):
            rows.append([num_kv_heads, "", *["-"] * 5])
            continue
        group_size = values["num_q_heads"] // num_kv_heads
        numbers = (fits.bytes_per_token, fits.num_tokens, fits.num_sequences, fits.num_windowed_sequences)
        texts = ("-" if number is None else f"{number:,}" for number in numbers)
        kind = _kind(group_size, num_kv_heads) + (", the model's" if num_kv_heads in own else "")
        rows.append([num_kv_heads, kind, group_size, *texts])
    is_windowed = any(row[-1] != "-" for row in rows)
    titles = [*_TITLES, _WINDOWED_TITLE] if is_windowed else _TITLES
    print_table(titles, [row[: len(titles)] for row in rows], left_columns=2)
    if min(by_heads) < values["tp"]:
        print(f"with fewer KV heads than ranks (tp={values['tp']}), each rank keeps a copy of one")
    reasons = [str(fits) for fits in by_heads.values() if isinstance(fits, InvalidCombination)]
    for reason in dict.fromkeys(reasons):
        print(reason)


def _kind(group_size: int, num_kv_heads: int) -> str:
    return "MHA" if group_size == 1 else "MQA" if num_kv_heads == 1 else "GQA"


def _dtype(values: dict[str, Any]) -> str:
    return _DEFAULT_DTYPE if values["dtype"] == AUTO else str(values["dtype"])
