from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gqabench.harness.errors import UsageError
from gqabench.harness.sweep.overrides import quoted
from gqabench.harness.sweep.sweeper import expand_axes


def expand(*overrides: str) -> list[tuple[str, ...]]:
    return expand_axes(OverridesParser.create().parse_overrides(list(overrides)))


def test_the_first_axis_is_the_slowest() -> None:
    assert expand("a=1,2", "b=x,y") == [("a=1", "b=x"), ("a=1", "b=y"), ("a=2", "b=x"), ("a=2", "b=y")]


def test_a_later_override_narrows_an_earlier_axis_in_its_place() -> None:
    assert expand("a=1,2,3", "b=x,y", "a=3") == [("a=3", "b=x"), ("a=3", "b=y")]


def test_hydra_grammar_for_axes() -> None:
    assert expand("a=range(1,4)") == [("a=1",), ("a=2",), ("a=3",)]
    assert expand("impls=[p,q]") == [("impls=[p,q]",)]
    assert expand("impls=[p],[q]") == [("impls=[p]",), ("impls=[q]",)]


def test_an_interval_is_no_axis() -> None:
    with pytest.raises(UsageError, match="a sweep needs a list of values"):
        expand("a=interval(1,4)")


@pytest.mark.parametrize("path", ["/a b/c", "/it's/here", "/x=y,z", r"/back\slash", "/{a}[b]"])
def test_quoted_paths_survive_the_override_grammar(path: str) -> None:
    [override] = OverridesParser.create().parse_overrides([f"key={quoted(path)}"])
    assert override.value() == path
