"""The frame behind the report: what is kept, what is not, and what an arm is called."""

import numpy as np
import pandas as pd

from gqabench.reports.frames.tidy import cells, failed_rows, impl_labels, num_cells, ok_rows, tidy
from gqabench.results.record import Outcome
from gqabench.results.store.frame import records_to_frame


def test_the_given_frame_stays_as_it_is(sweep_frame):
    before = sweep_frame.copy(deep=True)
    tidy(sweep_frame)
    pd.testing.assert_frame_equal(sweep_frame, before)


def test_frames_of_the_store_and_of_plain_dicts_are_the_same(sweep):
    rows = [record.to_dict() for record in sweep()]
    pd.testing.assert_frame_equal(tidy(records_to_frame(rows)), tidy(pd.DataFrame(rows)))


def test_the_index_of_the_given_frame_does_not_matter(sweep_frame):
    chosen = sweep_frame[sweep_frame["num_kv_heads"] == 1]
    pd.testing.assert_frame_equal(tidy(chosen), tidy(chosen.reset_index(drop=True)))
    assert list(tidy(chosen)["impl"]) == list(chosen["impl"])


def test_a_latency_of_another_outcome_is_dropped(record, frame_of):
    wrong = record("sdpa", outcome=Outcome.INCORRECT, reason="max_error 1 over 0.002")
    frame = frame_of([record("flex"), wrong])
    frame.loc[1, "latency_ms"] = 0.5
    out = tidy(frame)
    assert np.isnan(out.loc[1, "latency_ms"])
    assert list(ok_rows(out)["impl"]) == ["flex"]
    assert list(failed_rows(out)["impl"]) == ["sdpa"]


def test_columns_that_do_not_exist_are_missing_not_an_error():
    out = tidy(pd.DataFrame({"impl": ["sdpa"], "outcome": ["ok"]}))
    assert out["peak_workspace_bytes"].isna().all()
    assert len(tidy(pd.DataFrame())) == 0


def test_a_failure_that_was_measured_again_is_left_out(record, frame_of):
    crashed = record("sdpa", outcome=Outcome.CRASH, reason="signal 11")
    out = tidy(frame_of([crashed, crashed, record("sdpa")]))
    assert list(out["outcome"]) == ["ok"]
    assert list(tidy(frame_of([crashed, crashed]))["outcome"]) == ["crash"]


def test_of_several_records_of_one_cell_the_middle_one_counts(record, frame_of):
    frame = frame_of([record("sdpa", latency_ms=latency) for latency in (3.0, 1.0, 2.0)])
    assert list(cells(tidy(frame))["latency_ms"]) == [2.0]


def test_environments_and_runs_are_named_only_where_they_differ(record, frame_of):
    assert list(tidy(frame_of([record("sdpa")]))["arm"]) == ["sdpa"]
    two = tidy(frame_of([record("sdpa"), record("sdpa", environment="nightly")]))
    assert list(two["arm"]) == ["sdpa @ current", "sdpa @ nightly"]
    assert list(two["variant"]) == [0, 1]
    again = tidy(frame_of([record("sdpa"), record("sdpa", run_id="run-b")]))
    assert list(again["arm"]) == ["sdpa · run 1", "sdpa · run 2"]
    other = tidy(frame_of([record("sdpa"), record("sdpa", run_id="run-b", kv_len=64)]))
    assert list(other["arm"]) == ["sdpa", "sdpa"]


def test_runs_that_share_a_few_cells_are_one_larger_run(record, frame_of):
    one = [record("sdpa", kv_len=length) for length in (64, 128, 256)]
    other = [record("sdpa", kv_len=length, run_id="run-b") for length in (256, 512, 1024)]
    assert set(tidy(frame_of(one + other))["arm"]) == {"sdpa"}


def test_stage_names_the_workload_where_the_phase_does_not(record, frame_of):
    out = tidy(
        frame_of(
            [
                record("sdpa"),
                record("sdpa", workload="layer"),
                record("sdpa", workload="train", phase="prefill"),
            ]
        )
    )
    assert list(out["stage"]) == ["decode", "layer decode", "train prefill"]


def test_labels_of_files_lose_their_folders_but_stay_apart():
    labels = impl_labels(["a/mine.py:Fast", "sdpa", "x/k.py:K", "y/k.py:K"])
    assert labels["a/mine.py:Fast"] == "mine.py:Fast"
    assert labels["x/k.py:K"] != labels["y/k.py:K"]


def test_cells_are_counted_once(record, frame_of):
    assert num_cells(frame_of([record("sdpa"), record("sdpa"), record("flex")])) == 2
    assert num_cells(pd.DataFrame()) == 0
