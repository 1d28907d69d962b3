from __future__ import annotations

from gqabench.reports.frames.tidy import tidy
from gqabench.reports.page import build_report
from gqabench.reports.tables.markdown import markdown
from gqabench.reports.tables.timed_calls import timed_calls_table

PLAIN = {
    "cache_append": False, "planning": False, "layout_conversion": "no", "dequantisation": "no",
    "kv_expansion": "no", "num_launches": None,
}  # fmt: skip


def texts(table):
    return [[cell.text for cell in row] for group in table.groups for row in group.rows]


def test_a_line_for_each_implementation_and_a_note_for_those_that_do_not_say(record, frame_of):
    rows = [
        record("repeat_kv", kv_len=kv_len, timed_call=PLAIN | {"kv_expansion": "whole"})
        for kv_len in (64, 128)
    ]
    rows += [record("sdpa", timed_call=PLAIN | {"planning": True}), record("own")]
    table = timed_calls_table(tidy(frame_of(rows)))
    assert [column.title for column in table.columns] == [
        "impl", "K/V expansion", "layout conversion", "cache append", "planning",
    ]  # fmt: skip
    assert texts(table) == [["repeat_kv", "whole", "no", "no", "no"], ["sdpa", "no", "no", "no", "yes"]]
    assert table.note == "Not declared: own."


def test_columns_that_matter_to_no_row_are_left_out(record, frame_of):
    multi_head = record("sdpa", num_kv_heads=32, timed_call=PLAIN)
    titles = [column.title for column in timed_calls_table(tidy(frame_of([multi_head]))).columns]
    assert titles == ["impl", "layout conversion", "cache append", "planning"]
    quantised = record(
        "sdpa", kv_dtype="int8", timed_call=PLAIN | {"dequantisation": "whole", "num_launches": 9}
    )
    table = timed_calls_table(tidy(frame_of([quantised, record("flex", timed_call=PLAIN)])))
    assert [column.title for column in table.columns][3::3] == ["dequantisation", "launches"]
    assert [row[3::3] for row in texts(table)] == [["whole", "9"], ["no", "–"]]


def test_launches_are_those_declared_else_those_counted(record, frame_of):
    rows = [
        record("triton_prefill", timed_call=PLAIN | {"num_launches": 1}, num_launches=2),
        record("sdpa", timed_call=PLAIN, num_launches=3),
        record("grouped_matmul", timed_call=PLAIN, num_launches=4),
        record("grouped_matmul", kv_len=64, timed_call=PLAIN, num_launches=6),
        record("flex", timed_call=PLAIN),
    ]
    table = timed_calls_table(tidy(frame_of(rows)))
    assert table.columns[-1].title == "launches"
    assert "as the profiler counted them" in table.note
    assert {row[0]: row[-1] for row in texts(table)} == {
        "triton_prefill": "1", "sdpa": "3", "grouped_matmul": "4 to 6", "flex": "–",
    }  # fmt: skip


def test_stages_are_named_where_a_call_contains_other_things(record, frame_of):
    rows = [
        record("sdpa", timed_call=PLAIN),
        record("sdpa", workload="layer", timed_call=PLAIN | {"cache_append": True}),
    ]
    assert [row[0] for row in texts(timed_calls_table(tidy(frame_of(rows))))] == [
        "sdpa, decode",
        "sdpa, layer decode",
    ]


def test_without_a_declaration_there_is_no_table(sweep_frame, sweep_report):
    assert timed_calls_table(tidy(sweep_frame)).num_rows == 0
    page = (sweep_report / "report.html").read_text()
    assert "What a timed call contains" not in page


def test_the_table_stands_below_the_results(record, frame_of, header, tmp_path):
    frame = frame_of([record("sdpa", timed_call=PLAIN)])
    page = build_report(frame, header, tmp_path).read_text()
    assert (
        page.index("<h2>Results</h2>")
        < page.index("What a timed call contains")
        < page.index("Not measured</h2>")
    )
    assert markdown(timed_calls_table(tidy(frame))) in (tmp_path / "report.md").read_text()
