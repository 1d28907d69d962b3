"""Which slice of a sweep a figure draws, and how it says so."""

import pytest

from gqabench.reports.frames.slices import (
    axis_text,
    axis_values,
    choose_facets,
    heads_kind,
    spread_out,
    take_slice,
    varies,
)
from gqabench.reports.frames.tidy import tidy


def test_spread_out_keeps_the_ends():
    assert spread_out([1, 2, 3], 5) == [1, 2, 3]
    assert spread_out([32, 16, 8, 4, 2, 1], 3) == [32, 8, 1]
    assert spread_out([1, 2, 4], 1) == [4]
    assert spread_out(["float16", "float32"], 1) == ["float16"]


def test_values_stand_in_reading_order(record, frame_of):
    frame = tidy(
        frame_of(
            [
                record(num_kv_heads=heads, kv_dtype=kind)
                for heads, kind in ((1, "int8"), (32, None), (8, None))
            ]
        )
    )
    assert axis_values(frame, "num_kv_heads") == [32, 8, 1]
    assert axis_values(frame, "kv_dtype") == [None, "int8"]


def test_facets_take_the_axes_that_vary(sweep_frame):
    frame, facets = choose_facets(tidy(sweep_frame), fixed=["kv_len"])
    assert (facets.column, facets.row) == ("num_kv_heads", "batch_size")
    assert facets.columns == (32, 8, 1)
    assert facets.rows == (1, 16)
    assert len(facets.panel(frame, 1, 8)) == 21


def test_an_axis_that_follows_from_the_model_needs_no_panel(models_frame):
    frame = tidy(models_frame)
    assert varies(frame, "num_kv_heads")
    assert not varies(frame, "num_kv_heads", ["model"])
    _, facets = choose_facets(frame, fixed=["kv_len"])
    assert (facets.column, facets.row) == ("model", None)


def test_a_slice_is_the_fullest_then_the_largest_and_says_so(record, frame_of):
    frame = tidy(
        frame_of(
            [record(impl, batch_size=size) for impl in ("sdpa", "flex") for size in (1, 4)]
            + [record("sdpa", batch_size=16), record("sdpa", batch_size=1, dtype="float32")]
        )
    )
    drawn = take_slice(frame, free=("kv_len",))
    assert set(drawn.frame["batch_size"]) == {4}
    assert drawn.note == "Drawn: float16; batch 4. Also measured: float32; batch 1, 16."


def test_models_are_never_mixed_along_contexts(record, frame_of):
    small = [record(model="small", kv_len=length) for length in (64, 128)]
    large = [record(model="large", kv_len=length) for length in (1024, 2048, 4096)]
    drawn = take_slice(tidy(frame_of(small + large)), free=("kv_len",))
    assert set(drawn.frame["model"]) == {"large"}
    assert drawn.note.startswith("Drawn: large; context 1K, 2K, 4K. Also measured: small; ")


def test_nothing_left_out_needs_no_note(record, frame_of):
    frame = tidy(frame_of([record(kv_len=1024), record(kv_len=2048)]))
    assert take_slice(frame, free=("kv_len",)).note == ""


@pytest.mark.parametrize(
    ("heads", "kind"), [((32, 32), "MHA"), ((8, 32), "GQA"), ((1, 32), "MQA"), ((1, 1), "MHA")]
)
def test_kinds(heads, kind):
    assert heads_kind(*heads) == kind


def test_axes_in_words(sweep_frame):
    frame = tidy(sweep_frame)
    assert axis_text("num_kv_heads", 1.0, frame) == "1 KV head (MQA)"
    assert axis_text("kv_len", 4096.0) == "context 4K"
    assert axis_text("kv_dtype", None) == "cache in dtype"
    assert axis_text("dtype", "float16") == "float16"
