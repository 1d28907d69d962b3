"""Two implementations as one arm of a model, `PREFILL+DECODE`, since some support only one phase."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gqabench.attention_impls.contract import AttentionImpl, AttentionInputs, PreparedAttention, TimedCall
from gqabench.attention_impls.problem import AttentionProblem

JOINED_BY = "+"
_PAIR = re.compile(r"(.+\.py:\w+|[^+]+)\+(.+)")


@dataclass(frozen=True)
class PrefillDecodePair:
    """One implementation for several new tokens, another for one.

    A timed call is a decode step, so the pair declares what its decode implementation declares.
    """

    prefill: AttentionImpl
    decode: AttentionImpl

    @property
    def name(self) -> str:
        return f"{self.prefill.name}{JOINED_BY}{self.decode.name}"

    @property
    def timed_call(self) -> TimedCall | None:
        return getattr(self.decode, "timed_call", None)

    @property
    def serves(self) -> frozenset[str]:
        return frozenset.intersection(
            *(getattr(one, "serves", frozenset()) for one in (self.prefill, self.decode))
        )

    @property
    def reads_cache_in_place(self) -> bool:
        return getattr(self.decode, "reads_cache_in_place", True)

    @property
    def promised_operators(self) -> tuple[str, ...]:
        return getattr(self.decode, "promised_operators", ())

    @property
    def allocates_outside_torch(self) -> bool:
        return any(getattr(one, "allocates_outside_torch", False) for one in (self.prefill, self.decode))

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return self._serving(problem).unsupported_reasons(problem)

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        return self._serving(problem).prepare(problem, inputs)

    def _serving(self, problem: AttentionProblem) -> AttentionImpl:
        return self.decode if problem.q_len == 1 else self.prefill


def parts_of(name: str) -> list[str]:
    """Split a name into the names of a pair, or return it alone. Each may be `path/to/file.py:ClassName`."""
    match = _PAIR.fullmatch(name)
    return [match[1], match[2]] if match else [name]
