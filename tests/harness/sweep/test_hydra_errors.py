from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from gqabench.harness.errors import UsageError
from gqabench.harness.sweep.hydra_errors import mistakes_explained


def test_a_mistake_is_one_line_and_a_fault_of_ours_is_itself() -> None:
    with pytest.raises(UsageError, match="no such; thing") as raised, mistakes_explained():
        raise ValueError("no such\nthing")
    assert "\n" not in str(raised.value)
    with pytest.raises(ZeroDivisionError), mistakes_explained():
        1 / 0  # noqa: B018


def test_an_interruption_that_a_library_fails_upon_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OmegaConf raises its own exception in place of one that comes up while it cleans up."""
    config = OmegaConf.create({"numbers": [1]})

    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("half-way")

    monkeypatch.setattr(type(config.numbers), "_set_value_impl", interrupted)
    with pytest.raises(AttributeError, match="half-way"):
        config.numbers = [2]
    with pytest.raises(KeyboardInterrupt), mistakes_explained():
        config.numbers = [2]
