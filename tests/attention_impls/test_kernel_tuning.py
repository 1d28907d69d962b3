"""What tuning keeps, and when it is asked again."""

import json
from dataclasses import dataclass, replace

import pytest
from triton.runtime.errors import OutOfResources

from gqabench.attention_impls.cache_folder import user_cache_folder
from gqabench.attention_impls.kernels.triton import tuning
from gqabench.attention_impls.kernels.triton.tuning import choose, source_hash


@dataclass(frozen=True)
class Tile:
    block: int
    num_splits: int = 1


KEY = {"device": "made-up GPU", "head_dim": 128}
TILES = [Tile(16), Tile(32), Tile(64)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(tuning.OFF_SWITCH, raising=False)


def more_splits(best: Tile) -> list[Tile]:
    return [replace(best, num_splits=number) for number in (1, 2)]


class Stopwatch:
    """Pretends to time: 32 is the best block, and two splits are better than one."""

    def __init__(self) -> None:
        self.timed: list[Tile] = []

    def __call__(self, tile: Tile) -> float:
        self.timed.append(tile)
        return abs(tile.block - 32) + 1 / tile.num_splits


def test_each_round_starts_from_the_best_and_times_nothing_twice():
    stopwatch = Stopwatch()
    choice = choose(Tile, KEY, TILES, [more_splits], stopwatch)
    assert (choice.config, choice.source) == (Tile(32, 2), "tuned")
    assert stopwatch.timed == [*TILES, Tile(32, 2)]
    assert choice.autotune_ms is not None
    assert choice.describe(waves=3) == "tuned: block=32, num_splits=2, waves=3"


def test_an_answer_is_remembered_for_its_key_only():
    choose(Tile, KEY, TILES, [more_splits], Stopwatch())
    stopwatch = Stopwatch()
    again = choose(Tile, KEY, TILES, [more_splits], stopwatch)
    assert (again.config, again.source, stopwatch.timed) == (Tile(32, 2), "remembered", [])
    other = choose(Tile, KEY | {"head_dim": 64}, TILES, [], stopwatch)
    assert other.source == "tuned"
    assert len(list((user_cache_folder() / "triton").glob("*.json"))) == 2
    assert list((user_cache_folder() / "triton").glob("*.tmp")) == []


def test_what_was_timed_is_kept_beside_the_answer():
    choose(Tile, KEY, TILES, [], Stopwatch())
    (path,) = (user_cache_folder() / "triton").glob("*.json")
    kept = json.loads(path.read_text())
    assert kept["key"] == KEY
    assert kept["config"] == {"block": 32, "num_splits": 1}
    assert [(entry["config"]["block"], entry["ms"]) for entry in kept["timed"]] == [
        (16, 17),
        (32, 1),
        (64, 33),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"key": {}, "config": {"block": 1}}',
        '{"key": KEY, "config": {"blocks": 32}}',
        '{"key": KEY, "config": {}}',
        '{"key": KEY, "config": {"block": 33, "num_splits": 1}}',
        '{"key": KEY, "config": {"block": [32], "num_splits": 1}}',
    ],
)
def test_a_file_that_is_not_an_answer_is_replaced(content):
    choose(Tile, KEY, TILES, [], Stopwatch())
    (path,) = (user_cache_folder() / "triton").glob("*.json")
    path.write_text(content.replace("KEY", json.dumps(KEY)))
    assert choose(Tile, KEY, TILES, [], Stopwatch()).source == "tuned"
    assert choose(Tile, KEY, TILES, [], Stopwatch()).source == "remembered"


def test_a_folder_that_cannot_be_written_costs_only_the_memory(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="the tuning result is not kept"):
        assert choose(Tile, KEY, TILES, [], Stopwatch()).source == "tuned"


def test_where_nothing_fits_the_device_the_default_is_left_to_say_why():
    choice = choose(Tile, KEY, TILES, [more_splits], lambda tile: float("inf"))
    assert (choice.config, choice.source) == (Tile(16), "default")
    assert not (user_cache_folder() / "triton").exists()


@pytest.mark.parametrize("error", [OutOfResources(300, 227, "shared memory"), RuntimeError("a pass failed")])
def test_what_the_compiler_or_the_device_refuses_is_not_taken_and_said(error):
    stopwatch = Stopwatch()

    def refuses_the_best(tile: Tile) -> float:
        if tile.block == 32:
            raise error
        return stopwatch(tile)

    with pytest.warns(UserWarning, match=rf"block=32.* cannot be used here: {type(error).__name__}: "):
        choice = choose(Tile, KEY, TILES, [], refuses_the_best)
    assert choice.source == "tuned"
    assert choice.config.block != 32


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(tuning.OFF_SWITCH, "off")
    stopwatch = Stopwatch()
    choice = choose(Tile, KEY, TILES, [more_splits], stopwatch)
    assert (choice.config, choice.source, choice.autotune_ms) == (Tile(16), "default", None)
    assert stopwatch.timed == []


def test_the_source_of_every_kernel_is_in_the_key(monkeypatch, tmp_path):
    before = source_hash()
    folder = tmp_path / "kernels"
    folder.mkdir()
    for path in (tuning.Path(tuning.__file__).parent).glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(tuning, "__file__", str(folder / "tuning.py"))
    assert source_hash() == before
    (folder / "decode_kernel.py").write_text("# another kernel")
    assert source_hash() != before
