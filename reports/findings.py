"""What a run shows, in a few sentences computed from its records."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.baseline import base_arm, geometric_mean, in_speed_order, speed_ups
from reports.expansion import expanding_arms, workspace_shares
from reports.figures.kv_heads import relative_to_mha
from reports.slices import heads_text
from reports.tidy import PROBLEM_AXES, cells, failed_rows, ok_rows, stages
from reports.units import bytes_text, count_text, listed, plural, times_text, tokens_text

MAX_STAGES = 3


@dataclass(frozen=True)
class Finding:
    """One thing that the run shows: a few words, and the numbers."""

    title: str
    text: str


def key_findings(frame: pd.DataFrame) -> list[Finding]:
    """Findings of a tidy frame, the strongest first; those that it has no data for are left out."""
    found = [
        cache_finding(frame),
        *(speed_finding(frame[frame["stage"] == stage], stage) for stage in stages(frame)[:MAX_STAGES]),
        heads_finding(frame),
        expansion_finding(frame),
        outcome_finding(frame),
        doubt_finding(frame),
    ]
    return [finding for finding in found if finding is not None]


def cache_finding(frame: pd.DataFrame) -> Finding | None:
    """How far the formula's cache falls from the most to the fewest KV heads of one problem."""
    rows = frame[frame["kv_cache_bytes_model"] > 0]
    keys = [axis for axis in PROBLEM_AXES if axis != "num_kv_heads"]
    rows = rows[rows.groupby(keys, dropna=False)["num_kv_heads"].transform("nunique") > 1]
    if len(rows) == 0:
        return None
    largest = rows.nlargest(1, "kv_cache_bytes_model").iloc[0]
    same = rows
    for axis in keys:
        same = same[same[axis].isna()] if pd.isna(largest[axis]) else same[same[axis] == largest[axis]]
    smallest = same.nsmallest(1, "num_kv_heads").iloc[0]
    ratio = largest["kv_cache_bytes_model"] / smallest["kv_cache_bytes_model"]
    exactly = "exactly " if ratio == largest["num_kv_heads"] / smallest["num_kv_heads"] else ""
    return Finding(
        f"The KV cache shrinks by {exactly}{times_text(ratio)}",
        f"From {largest['num_kv_heads']:g} to {heads_text(smallest['num_kv_heads'])}: "
        f"{bytes_text(largest['kv_cache_bytes_model'])} to {bytes_text(smallest['kv_cache_bytes_model'])} "
        f"for one layer, {tokens_text(largest['kv_len'])} tokens, batch {largest['batch_size']:g}.",
    )


def speed_finding(frame: pd.DataFrame, stage: str) -> Finding | None:
    """The arm that is fastest on the most problems of a stage, and its speed-up over the base."""
    rows = cells(frame)
    base = base_arm(rows)
    if base is None:
        return None
    problem = rows.groupby(list(PROBLEM_AXES), dropna=False, sort=False).ngroup()
    compared = rows[rows.groupby(problem)["arm"].transform("nunique") > 1]
    if len(compared) == 0:
        return None
    fastest = compared.loc[compared.groupby(problem)["latency_ms"].idxmin(), "arm"]
    wins = fastest.value_counts()
    order = in_speed_order(rows)
    best = min((str(arm) for arm in wins[wins == wins.max()].index), key=order.index)
    won = f"{count_text(wins.max())} of {plural(len(fastest), 'problem')}"
    title = f"{stage.capitalize()}: {best} is fastest on {won}"
    compared = speed_ups(frame, base)
    faster = compared.loc[compared["arm"] == best, "speed_up"]
    if best == base or len(faster) == 0:
        return Finding(title, "No other implementation beats it more often.")
    spread = f"{times_text(faster.min())} to {times_text(faster.max())}"
    return Finding(
        title,
        f"Over {base} it is {times_text(geometric_mean(faster))} as fast (geometric mean of "
        f"{plural(len(faster), 'shared problem')}; {spread}).",
    )


def heads_finding(frame: pd.DataFrame) -> Finding | None:
    """Decode with the fewest KV heads against MHA: the arm that gains most, and the one that gains least."""
    rows = relative_to_mha(cells(frame[frame["q_len"] == 1]))
    rows = rows[rows["num_kv_heads"] < rows["num_q_heads"]]
    if len(rows) == 0:
        return None
    rows = rows[rows["group_size"] == rows["group_size"].max()]
    gains = (1 / rows["relative_latency"]).groupby(rows["arm"]).agg(geometric_mean).sort_values(kind="stable")
    if len(gains) < 2:
        return None
    least, most = str(gains.index[0]), str(gains.index[-1])
    return Finding(
        "Fewer KV heads do not speed up every implementation alike",
        f"Decoding with {heads_text(rows['num_kv_heads'].min())} is {times_text(gains[most])} as fast as "
        f"with MHA in {most}, and {times_text(gains[least])} as fast in {least} (geometric mean over "
        "contexts and batch sizes).",
    )


def expansion_finding(frame: pd.DataFrame) -> Finding | None:
    """Which arms expand K and V, by their workspace, and what the others need."""
    shares = workspace_shares(frame)
    if len(shares) == 0:
        return None
    shares = shares[shares["kv_cache_bytes_model"] == shares["kv_cache_bytes_model"].max()]
    expanding = [arm for arm in expanding_arms(frame) if (shares["arm"] == arm).any()]
    first = shares.iloc[0]
    cache = f"a cache of {bytes_text(first['kv_cache_bytes_model'])} ({heads_text(first['num_kv_heads'])})"
    others = shares[~shares["arm"].isin(expanding)]
    largest = bytes_text(others["peak_workspace_bytes"].max())
    if not expanding:
        return Finding(
            "No implementation expands K and V in decoding",
            f"Beside {cache}, the largest workspace is {largest}.",
        )
    rest = f"The others need at most {largest}." if len(others) else ""
    wide = shares[shares["arm"].isin(expanding)]["peak_workspace_bytes"]
    low, high = bytes_text(wide.min()), bytes_text(wide.max())
    amount = low if low == high else f"{low} to {high}"
    verb, whose = (
        ("expands", "one decode call") if len(expanding) == 1 else ("expand", "one decode call of each")
    )
    return Finding(
        f"{listed(expanding)} {verb} K and V back to MHA size",
        f"Beside {cache}, {whose} needs {amount} of workspace. {rest}".strip(),
    )


def outcome_finding(frame: pd.DataFrame) -> Finding | None:
    """How many rows ended how."""
    if len(frame) == 0:
        return None
    counts = frame["outcome"].value_counts()
    texts = [f"{count_text(int(count))} {outcome}" for outcome, count in counts.items()]
    failed = len(failed_rows(frame))
    title = f"{plural(len(frame), 'record')}: {listed(texts, limit=7)}"
    return Finding(title, "The reasons stand under “Not measured”." if failed else "Every arm was measured.")


def doubt_finding(frame: pd.DataFrame) -> Finding | None:
    """How many latencies carry a flag, and which: what is shown of them is shown with that doubt."""
    rows = ok_rows(frame)
    flags = rows["flags"].explode().dropna()
    flagged = int(rows["flags"].map(bool).sum())
    if flagged == 0:
        return None
    counts = [f"{name} ({count_text(int(count))})" for name, count in flags.value_counts().items()]
    title = f"{count_text(flagged)} of {plural(len(rows), 'latency', 'latencies')} in doubt"
    return Finding(
        title, f"Flags: {listed(counts)}. A difference within the intervals of both sides means nothing."
    )
