"""Reasons that no implementation has to state itself: fields of a problem that are newer than it is."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest

from gqabench.attention_impls import AttentionProblem, get_impl
from gqabench.attention_impls.plugins.promises import FIRST_FIELDS, stated_reasons
from gqabench.attention_impls.prefill_decode_pair import PrefillDecodePair


@dataclass(frozen=True)
class LaterProblem(AttentionProblem):
    chunk: int | None = None
    sinks: bool = False


PROBLEM = LaterProblem(1, 1, 16, 4, 2, 8, "float32", "cpu")


class OfOld:
    """From outside, written before there were chunks, and sure of itself."""

    name = "of_old"

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return []


class OfToday(OfOld):
    name = "of_today"
    serves = frozenset({"chunk"})


def test_the_fields_of_today_are_known_to_all() -> None:
    assert {item.name for item in fields(AttentionProblem)} == FIRST_FIELDS


@pytest.mark.parametrize("impl", [OfOld(), get_impl("sdpa"), get_impl("reference")])
def test_a_field_that_is_newer_than_an_implementation_is_refused_for_it(impl: object) -> None:
    assert stated_reasons(impl, PROBLEM) == []
    assert stated_reasons(impl, replace(PROBLEM, chunk=4)) == [f"chunk=4: {impl.name} does not serve chunk"]


def test_a_field_is_served_by_who_names_it() -> None:
    assert stated_reasons(OfToday(), replace(PROBLEM, chunk=4)) == []
    assert stated_reasons(OfToday(), replace(PROBLEM, chunk=4, sinks=True)) == [
        "sinks=True: of_today does not serve sinks"
    ]


def test_a_pair_serves_what_both_do() -> None:
    assert PrefillDecodePair(OfToday(), OfToday()).serves == {"chunk"}
    assert PrefillDecodePair(OfToday(), OfOld()).serves == frozenset()
