from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gqabench import results
from gqabench.results import (
    RECORD_FIELDS,
    SCHEMA_VERSION,
    Outcome,
    Record,
    RunFolder,
    RunHeader,
    UnreadableRun,
    load_runs,
)
from gqabench.results.store.parquet import read_parquet, write_parquet
from gqabench.results.store.run_folder import list_runs

MakeRecord = Callable[..., Record]


@pytest.fixture
def folder(tmp_path: Path, header: RunHeader) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "run-a", header)


def write(folder: RunFolder, *records: Record, name: str = "host-1") -> Path:
    with folder.writer(name) as writer:
        for record in records:
            writer.write(record)
    return folder.record_files()[0]


def test_a_record_survives_the_round_trip(make_record: MakeRecord) -> None:
    record = make_record(samples_ms=[1.0, 2.0], flags=["unstable"], kv_cache_bytes=2**40 + 1)
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_record_from_foreign_values_says_what_is_wrong(make_record: MakeRecord) -> None:
    with pytest.raises(ValueError, match="unknown record fields: colour"):
        Record.from_dict(make_record().to_dict() | {"colour": "blue"})
    with pytest.raises(ValueError, match="outcome"):
        Record.from_dict({"impl": "sdpa"})


def test_each_record_is_on_disk_before_the_next(folder: RunFolder, make_record: MakeRecord) -> None:
    with folder.writer("host-1") as writer:
        writer.write(make_record(impl="one"))
        assert [row["impl"] for row in load_runs(folder.path).rows] == ["one"]
        writer.write(make_record(impl="two"))
        assert [row["impl"] for row in load_runs(folder.path).rows] == ["one", "two"]


def test_a_frame_has_the_documented_columns_and_types(folder: RunFolder, make_record: MakeRecord) -> None:
    write(
        folder,
        make_record(samples_ms=[1.0, 2.0], latency_ms=1.5, kv_cache_bytes=2**53 + 1),
        make_record(outcome=Outcome.UNSUPPORTED, reason="why"),
    )
    frame = results.load(folder.path)
    assert list(frame.columns) == list(RECORD_FIELDS)
    assert frame["kv_cache_bytes"].dtype == "Int64"
    assert frame.loc[0, "kv_cache_bytes"] == 2**53 + 1  # bytes are exact ints
    assert pd.isna(frame.loc[1, "kv_cache_bytes"])  # not measured is null, never 0
    assert pd.isna(frame.loc[1, "latency_ms"])
    assert frame.loc[0, "samples_ms"] == [1.0, 2.0]
    assert frame.loc[1, "reason"] == "why"


def test_an_empty_run_is_a_frame_without_rows(folder: RunFolder) -> None:
    assert len(results.load(folder.path)) == 0


def test_parquet_holds_the_same_rows_and_the_header(folder: RunFolder, make_record: MakeRecord) -> None:
    timed_call = {
        "cache_append": False, "planning": True, "layout_conversion": "no", "dequantisation": "tiles",
        "kv_expansion": "whole", "num_launches": 2,
    }  # fmt: skip
    write(
        folder,
        make_record(samples_ms=[1.0]),
        make_record(impl="flex", kernels=["a", "b"], timed_call=timed_call),
    )
    from_lines = load_runs(folder.path).rows
    write_parquet(folder.path / "records.parquet", from_lines, [folder.header()])
    for file in folder.record_files():
        file.unlink()
    loaded = load_runs(folder.path)
    assert loaded.rows == from_lines
    assert loaded.headers == [folder.header()]


def test_lines_that_came_after_the_parquet_are_not_lost(folder: RunFolder, make_record: MakeRecord) -> None:
    lines = write(folder, make_record(impl="one"))
    write_parquet(folder.path / "records.parquet", load_runs(folder.path).rows, [folder.header()])
    write(folder, make_record(impl="two"))
    later = (folder.path / "records.parquet").stat().st_mtime + 5
    os.utime(lines, (later, later))
    assert [row["impl"] for row in load_runs(folder.path).rows] == ["one", "two"]


def test_a_killed_writer_costs_its_last_line_alone(folder: RunFolder, make_record: MakeRecord) -> None:
    file = write(folder, make_record(impl="one"), make_record(impl="two"))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.warns(UserWarning, match="unfinished record"):
        assert [row["impl"] for row in load_runs(folder.path).rows] == ["one"]


def test_writing_on_after_a_kill_starts_a_line_of_its_own(folder: RunFolder, make_record: MakeRecord) -> None:
    file = write(folder, make_record(impl="one"))
    file.write_bytes(file.read_bytes()[:-1])  # the record is whole, its line end is missing
    write(folder, make_record(impl="two"))
    assert [row["impl"] for row in load_runs(folder.path).rows] == ["one", "two"]


def test_paths_that_a_person_would_name(folder: RunFolder, make_record: MakeRecord, tmp_path: Path) -> None:
    file = write(folder, make_record())
    folder.link_latest()
    other = tmp_path / "runs" / "run-b"
    shutil.copytree(folder.path, other)
    assert len(results.load(folder.path)) == 1
    assert len(results.load(str(file))) == 1
    assert len(results.load(tmp_path / "runs" / "latest")) == 1
    assert len(results.load(str(tmp_path / "runs" / "run-*"))) == 2


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("missing", None, "no such run"),
        ("notes.txt", b"hello", "not a run"),
        ("foreign.jsonl", b'{"a": 1}\n', "no schema_version"),
        ("list.jsonl", b"[1, 2]\n", "not a record"),
        ("text.jsonl", b"hello\n", "truncated, or not a record"),
        ("empty.jsonl", b"", "holds no records"),
        ("foreign.parquet", b"PAR1 not really", "not a Parquet file"),
        ("empty.parquet", b"", "not a Parquet file"),
        ("newer.jsonl", b'{"schema_version": 999}\n', "newer than this gqabench"),
    ],
)
def test_what_is_no_run_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableRun, match=complaint) as caught:
        results.load(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_ms", "fast"),
        ("latency_ms", True),
        ("kv_cache_bytes", "1024"),
        ("samples_ms", [1.0, "x"]),
        ("case_id", ["a"]),
        ("flags", [{}]),
        ("outcome", ["ok"]),
    ],
)
def test_a_value_that_no_record_has_is_refused_by_its_field(
    folder: RunFolder, make_record: MakeRecord, field: str, value: Any
) -> None:
    file = write(folder, make_record())
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}) + "\n")
    with pytest.raises(UnreadableRun, match=f"{field}=.*: not a value that a record has there"):
        results.load(folder.path)


def test_numbers_without_end_are_refused(folder: RunFolder, make_record: MakeRecord) -> None:
    file = write(folder, make_record())
    file.write_text(file.read_text().replace('"latency_ms": ', '"latency_ms": Infinity, "x": ', 1))
    with pytest.raises(UnreadableRun, match="latency_ms=inf"):
        results.load(folder.path)


@pytest.mark.parametrize("text", ["[]", "null", '"x"', '{"run_id": 3}', "MACHINE", "STUDY"])
def test_a_header_that_is_none_is_refused(folder: RunFolder, make_record: MakeRecord, text: str) -> None:
    write(folder, make_record())
    path = folder.path / "run.json"
    header = json.loads(path.read_text())
    changed = {"MACHINE": header | {"machine": [1]}, "STUDY": header | {"study": 3}}
    path.write_text(json.dumps(changed[text]) if text in changed else text)
    with pytest.raises(UnreadableRun, match="not a run header"):
        results.load(folder.path)


def test_a_truncated_file_named_by_itself_is_refused(folder: RunFolder, make_record: MakeRecord) -> None:
    file = write(folder, make_record(), make_record())
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UnreadableRun, match="truncated"):
        results.load(file)


def test_a_truncated_parquet_is_refused(folder: RunFolder, make_record: MakeRecord, tmp_path: Path) -> None:
    write(folder, make_record())
    path = tmp_path / "records.parquet"
    write_parquet(path, load_runs(folder.path).rows, [folder.header()])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableRun, match=r"records\.parquet"):
        results.load(path)


def test_a_foreign_folder_and_a_foreign_parquet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRun, match=r"no run\.json"):
        results.load(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UnreadableRun, match="not of gqabench records"):
        results.load(tmp_path / "other.parquet")


def test_a_record_that_lacks_a_newer_optional_field_still_loads(
    folder: RunFolder, make_record: MakeRecord
) -> None:
    values = make_record().to_dict()
    del values["energy_j_per_call"]
    assert values["schema_version"] == SCHEMA_VERSION
    (folder.path / "records" / "old.jsonl").write_text(json.dumps(values) + "\n")
    assert load_runs(folder.path).rows[0]["energy_j_per_call"] is None


def test_a_failed_parquet_leaves_the_old_one(folder: RunFolder, make_record: MakeRecord) -> None:
    path = folder.path / "records.parquet"
    write(folder, make_record())
    rows = load_runs(folder.path).rows
    write_parquet(path, rows, [folder.header()])
    with pytest.raises(Exception, match="int"):
        write_parquet(path, [rows[0] | {"kv_len": "many"}], [folder.header()])
    assert read_parquet(path)[0] == rows
    assert [entry.name for entry in folder.path.iterdir() if entry.name.startswith(".")] == []


def test_status_and_latest(folder: RunFolder, header: RunHeader) -> None:
    assert folder.set_status("complete") == replace(header, status="complete")
    assert folder.header().status == "complete"
    folder.link_latest()
    newer = RunFolder.create(folder.path.parent / "run-b", replace(header, run_id="run-b"))
    newer.link_latest()
    assert (folder.path.parent / "latest").resolve() == newer.path.resolve()
    assert [run.path.name for run in list_runs(folder.path.parent)] == ["run-a", "run-b"]


def test_a_file_named_latest_is_left_alone(folder: RunFolder) -> None:
    (folder.path.parent / "latest").write_text("mine")
    folder.link_latest()
    assert (folder.path.parent / "latest").read_text() == "mine"


def test_a_record_of_the_first_schema_loads_with_nulls_for_what_is_newer(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    row = make_record().to_dict() | {"schema_version": 1}
    del row["graph_pool_bytes"]
    (tmp_path / "old.jsonl").write_text(json.dumps(row) + "\n")
    (loaded,) = load_runs(tmp_path / "old.jsonl").rows
    assert loaded["schema_version"] == SCHEMA_VERSION
    assert loaded["graph_pool_bytes"] is None
    assert loaded["latency_ms"] == row["latency_ms"]
