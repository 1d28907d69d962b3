"""One folder of the user holds what is kept between runs, whoever asks."""

import pytest

from gqabench.attention_impls.cache_folder import CACHE_VARIABLE, user_cache_folder


@pytest.fixture(autouse=True)
def _unset(monkeypatch, tmp_path):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_by_default_it_is_in_the_home_folder(tmp_path):
    assert user_cache_folder() == tmp_path / "home" / ".cache" / "gqabench"


def test_the_desktop_standard_moves_it_and_our_variable_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache_folder() == tmp_path / "xdg" / "gqabench"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    assert user_cache_folder() == tmp_path / "own"


def test_variables_may_be_relative_or_empty(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, ".")
    assert user_cache_folder() == tmp_path
    monkeypatch.setenv(CACHE_VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert user_cache_folder() == tmp_path / "home" / ".cache" / "gqabench"
