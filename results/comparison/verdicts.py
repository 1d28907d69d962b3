"""What a comparison says: an answer for each metric of each cell, and one for all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from gqabench.results.axes import told_settings
from gqabench.results.comparison.environment_move import EnvironmentMove

INCONCLUSIVE_POLICIES = ("fail", "warn", "pass")
"""What an inconclusive cell means for the exit code: 2, or nothing but a line, or nothing."""


class Answer(StrEnum):
    """Three answers: a measurement that cannot tell says so."""

    REGRESSION = "regression"
    NO_REGRESSION = "no regression"
    INCONCLUSIVE = "inconclusive"


EXIT_CODES = {Answer.NO_REGRESSION: 0, Answer.REGRESSION: 1, Answer.INCONCLUSIVE: 2}


@dataclass(frozen=True, order=True)
class CellKey:
    """What is compared with itself: an arm on a problem, whatever code and libraries it ran with."""

    case_id: str
    impl: str
    environment: str = "current"
    problem: str = field(default="", compare=False)
    """The problem as a reader says it."""

    @property
    def arm(self) -> str:
        """The implementation, with its environment where that is not the usual one."""
        return self.impl if self.environment == "current" else f"{self.environment}:{self.impl}"

    @property
    def label(self) -> str:
        """Arm and problem in one line."""
        return f"{self.arm}, {self.problem or self.case_id}"


def cell_key(row: Mapping[str, Any]) -> CellKey:
    """Return the key of a record, given as a dictionary."""
    return CellKey(row["case_id"], row["impl"], row["environment"], problem_text(row))


def problem_text(row: Mapping[str, Any]) -> str:
    """Return a record's problem: `decode, batch 1, kv_len 256, heads 8/2 x 64, float32, cpu`."""
    parts = [row["workload"], f"batch {row['batch_size']}"]
    if row["workload"] != "decode" and row["q_len"] is not None:
        parts.append(f"q_len {row['q_len']}")
    parts += [
        f"kv_len {row['kv_len']}",
        f"heads {row['num_q_heads']}/{row['num_kv_heads']} x {row['head_dim']}",
        row["dtype"],
    ]
    parts += told_settings(row)
    if row["tp"] not in (None, 1):
        parts.append(f"tp {row['tp']}")
    return ", ".join([*(part for part in parts if part), row["device"]])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer for one metric of one cell."""

    cell: CellKey
    metric: str
    """A record column: `latency_ms`, `kv_cache_bytes`, `peak_workspace_bytes`, ...; `outcome`; or
    `relative_latency`."""
    answer: Answer
    is_improvement: bool = False
    """Better, beyond the minimum effect; never together with a regression."""
    base: float | int | str | None = None
    """Median of the metric's values, in its own unit."""
    new: float | int | str | None = None
    change: float | None = None
    """Relative change: 0.05 is 5 % more."""
    change_low: float | None = None
    change_high: float | None = None
    """95 % interval of the change; None where there are too few values for one."""
    min_effect: float | None = None
    """The relative change for the worse that is not worth a word: 0.02 is 2 %"""
    smallest_detectable_change: float | None = None
    """The change for the worse that would have been called a regression, with the noise that was seen."""
    p_value: float | None = None
    """Of "not worse than the minimum effect", adjusted for all cells that were tested with it."""
    num_base: int = 0
    num_new: int = 0
    """Values behind each side: fresh processes, or runs. Of a paired trial, its pairs."""
    reason: str = ""
    """In a few words, why this answer."""


def overall_answer(verdicts: Iterable[Verdict]) -> Answer:
    """Return the answer of several verdicts: one regression is one, and else one that cannot tell."""
    given = {verdict.answer for verdict in verdicts}
    for answer in (Answer.REGRESSION, Answer.INCONCLUSIVE):
        if answer in given:
            return answer
    return Answer.NO_REGRESSION


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All verdicts of one comparison, and what a reader has to know of it."""

    base: str
    new: str
    """What was compared: paths of runs, git revisions, interpreters."""
    verdicts: tuple[Verdict, ...]
    new_cells: tuple[CellKey, ...] = ()
    """Cells that the base has not: listed, and no verdict."""
    notes: tuple[str, ...] = ()
    """Assumptions, differences of the two sides, and what was left out."""
    environment_move: EnvironmentMove | None = None
    """Of stored runs of one machine: None where nothing says that their environment moved."""
    relative_answer: Answer | None = None
    """Of the arms judged against each other, where the environment moved and there is more than one."""

    def with_answer(self, answer: Answer) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.answer == answer]

    @property
    def regressions(self) -> list[Verdict]:
        return self.with_answer(Answer.REGRESSION)

    @property
    def inconclusive(self) -> list[Verdict]:
        return self.with_answer(Answer.INCONCLUSIVE)

    @property
    def improvements(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.is_improvement]

    @property
    def answer(self) -> Answer:
        """Of all cells: one regression is one, and else one that cannot tell."""
        return overall_answer(self.verdicts)

    def exit_code(self, inconclusive: str) -> int:
        """Return 0 no regression, 1 regression, 2 could not tell; `inconclusive` is fail, warn or pass."""
        assert inconclusive in INCONCLUSIVE_POLICIES
        answer = self.answer
        if answer == Answer.INCONCLUSIVE and inconclusive != "fail":
            answer = Answer.NO_REGRESSION
        return EXIT_CODES[answer]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"answer": self.answer.value, **asdict(self)}
