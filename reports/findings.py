"""What a run shows, in a few sentences computed from its records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from gqabench.reports.figures.kv_heads import relative_to_mha
from gqabench.reports.frames.baseline import base_arm, geometric_mean, in_speed_order, speed_ups
from gqabench.reports.frames.doubts import all_flags, doubt_text, fastest_rows, unflagged, unflagged_first
from gqabench.reports.frames.expansion import expanding_arms, workspace_shares
from gqabench.reports.frames.problem import where_text
from gqabench.reports.frames.slices import heads_text, take_slice
from gqabench.reports.frames.tidy import cells, failed_rows, ok_rows, stages
from gqabench.reports.units import bytes_text, count_text, listed, plural, times_text
from gqabench.results.axes import PROBLEM_KEYS

MAX_STAGES = 3


@dataclass(frozen=True)
class Finding:
    """One thing that the run shows: a few words, and the numbers."""

    title: str
    text: str


def key_findings(frame: pd.DataFrame) -> list[Finding]:
    """Return findings of a tidy frame, the strongest first; those that it has no data for are left out."""
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
    """Return how far the formula's cache falls from the most to the fewest KV heads of one problem."""
    rows = frame[frame["kv_cache_bytes_model"] > 0]
    keys = [axis for axis in PROBLEM_KEYS if axis != "num_kv_heads"]
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
        f"for one layer, {where_text(largest, rows, ('kv_len', 'batch_size'))}.",
    )


def speed_finding(frame: pd.DataFrame, stage: str) -> Finding | None:
    """Return the arm that is fastest on the most problems of a stage, and its speed-up over the base."""
    rows = cells(frame)
    base = base_arm(rows)
    if base is None:
        return None
    problem = rows.groupby(list(PROBLEM_KEYS), dropna=False, sort=False).ngroup()
    compared = rows[rows.groupby(problem)["arm"].transform("nunique") > 1]
    if len(compared) == 0:
        return None
    best, title = _fastest(
        stage, fastest_rows(compared.assign(problem=problem), problem), in_speed_order(rows)
    )
    faster = speed_ups(frame, base)
    faster = faster[faster["arm"] == best]
    if best == base or len(faster) == 0:
        return Finding(title, f"{base} is the base of the speed-ups; nothing else is fastest more often.")
    sure = unflagged_first(faster, "flags", "base_flags")
    spread = f"; {_range(sure['speed_up'], times_text)}" if len(sure) > 1 else ""
    without = " without flags" if len(sure) < len(faster) else ""
    return Finding(
        title,
        f"Over {base} it is {times_text(geometric_mean(sure['speed_up']))} as fast"
        f"{doubt_text(all_flags(sure, 'flags', 'base_flags'))} (geometric mean of "
        f"{plural(len(sure), 'shared problem')}{without}{spread}).",
    )


def _fastest(stage: str, fastest: pd.DataFrame, order: list[str]) -> tuple[str, str]:
    """Return the arm that is most often among the fastest, within the intervals, and a title that says so.

    `fastest` has the fastest rows of each `problem`.
    """
    among = fastest["arm"].value_counts()
    is_alone = ~fastest["problem"].duplicated(keep=False)
    clear = fastest.loc[is_alone, "arm"].value_counts().reindex(among.index, fill_value=0)
    best = str(min(among.index, key=lambda arm: (-among[arm], -clear[arm], order.index(arm))))
    of_best = fastest[fastest["arm"] == best]
    doubtful = int(of_best["flags"].map(bool).sum())
    doubt = f" (its latency is in doubt on {count_text(doubtful)})" if doubtful else ""
    problems = plural(fastest["problem"].nunique(), "problem")
    if clear[best] == among[best]:
        return best, f"{stage.capitalize()}: {best} is fastest on {clear[best]} of {problems}{doubt}"
    beside = fastest.loc[fastest["problem"].isin(of_best["problem"]), "arm"].value_counts()
    others = [arm for arm in order if arm != best and beside.get(arm) == len(of_best)]
    if others:
        names = listed([best, *others])
        text = f"{names} are fastest, within their intervals, on {among[best]} of {problems}{doubt}"
    elif clear[best] == 0:
        text = f"{best} and others are fastest, within their intervals, on {among[best]} of {problems}{doubt}"
    else:
        level = among[best] - clear[best]
        text = (
            f"{best} is fastest on {clear[best]} of {problems}, and with others, within their intervals, on "
            f"{level} more{doubt}"
        )
    return best, f"{stage.capitalize()}: {text}"


def heads_finding(frame: pd.DataFrame) -> Finding | None:
    """Compare decode with the fewest KV heads to MHA: the arms that gain most and least."""
    measured = cells(frame[frame["q_len"] == 1])
    rows = relative_to_mha(measured)
    rows = rows[rows["num_kv_heads"] < rows["num_q_heads"]]
    if len(rows) == 0:
        return None
    rows = rows[rows["group_size"] == rows["group_size"].max()]
    rows = take_slice(rows, ("kv_len", "batch_size")).frame
    sure = unflagged(rows, "flags", "mha_flags")
    without = sure["arm"].nunique() > 1 and len(sure) < len(rows)
    rows = sure if without else rows
    gains = (1 / rows["relative_latency"]).groupby(rows["arm"]).agg(geometric_mean).sort_values(kind="stable")
    if len(gains) < 2:
        return None
    least, most = str(gains.index[0]), str(gains.index[-1])
    doubts = {
        arm: doubt_text(all_flags(rows[rows["arm"] == arm], "flags", "mha_flags")) for arm in (least, most)
    }
    where = where_text(rows.iloc[0], measured, ("num_kv_heads",))
    over = "the contexts and batch sizes without flags" if without else "contexts and batch sizes"
    return Finding(
        "Fewer KV heads do not speed up every implementation alike",
        f"Decoding with {where} is {times_text(gains[most])} as fast as with MHA in {most}{doubts[most]}, "
        f"and {times_text(gains[least])} as fast in {least}{doubts[least]} (geometric mean over {over}).",
    )


def expansion_finding(frame: pd.DataFrame) -> Finding | None:
    """Return which arms need the workspace that expanding K and V takes, and what the others need."""
    shares = workspace_shares(frame)
    if len(shares) == 0:
        return None
    shares = shares[shares["kv_cache_bytes_model"] == shares["kv_cache_bytes_model"].max()]
    expanding = [arm for arm in expanding_arms(frame) if (shares["arm"] == arm).any()]
    first = shares.iloc[0]
    cache = (
        f"a cache of {bytes_text(first['kv_cache_bytes_model'])} ({heads_text(first['num_kv_heads'])}), "
        f"which would be {bytes_text(first['expanded_bytes'])} with MHA"
    )
    others = shares[~shares["arm"].isin(expanding)]
    largest = bytes_text(others["peak_workspace_bytes"].max())
    if not expanding:
        return Finding(
            "No implementation needs as much workspace in decoding as the cache of MHA",
            f"Beside {cache}, the largest workspace is {largest}.",
        )
    rest = f" The others need at most {largest}." if len(others) else ""
    wide = shares[shares["arm"].isin(expanding)]
    verb, whose = ("needs", "one decode call") if len(expanding) == 1 else ("need", "one decode call of each")
    return Finding(
        f"{listed(expanding)} {verb} as much workspace as the cache of MHA",
        f"Beside {cache}, {whose} needs {_range(wide['peak_workspace_bytes'], bytes_text)} of workspace: "
        f"{_range(wide['share'], times_text)} the bytes of K and V expanded to all query heads.{rest}",
    )


def _range(values: pd.Series[float], text: Callable[[float], str]) -> str:
    low, high = text(values.min()), text(values.max())
    return low if low == high else f"{low} to {high}"


def outcome_finding(frame: pd.DataFrame) -> Finding | None:
    """Return how many rows ended how."""
    if len(frame) == 0:
        return None
    counts = frame["outcome"].value_counts()
    texts = [f"{count_text(int(count))} {outcome}" for outcome, count in counts.items()]
    failed = len(failed_rows(frame))
    title = f"{plural(len(frame), 'record')}: {listed(texts, limit=7)}"
    return Finding(
        title, "The reasons are listed under “Not measured”." if failed else "Every arm was measured."
    )


def doubt_finding(frame: pd.DataFrame) -> Finding | None:
    """Return how many latencies carry a flag, and which: what is shown of them is shown with that doubt."""
    rows = ok_rows(frame)
    flags = rows["flags"].explode().dropna()
    flagged = int(rows["flags"].map(bool).sum())
    if flagged == 0:
        return None
    counts = [f"{name} ({count_text(int(count))})" for name, count in flags.value_counts().items()]
    title = f"{count_text(flagged)} of {plural(len(rows), 'latency', 'latencies')} in doubt"
    return Finding(
        title, f"Flags: {listed(counts)}. A difference within the intervals of both sides is not significant."
    )
