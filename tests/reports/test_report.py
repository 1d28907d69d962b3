"""The page and its files, as a reader meets them."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from gqabench.reports import build_report
from gqabench.reports.findings import expansion_finding, key_findings, speed_finding
from gqabench.reports.frames.expansion import expanding_arms
from gqabench.reports.frames.tidy import tidy
from gqabench.reports.runs import run_views
from gqabench.reports.tables.glossary import glossary_of, method_notes
from gqabench.reports.tables.memory_table import memory_table
from gqabench.reports.tables.results_table import failures_table, flags_table, outcomes_table, results_table
from gqabench.reports.tables.setup_times import setup_table
from gqabench.results.record import Outcome

HOSTILE = "<script>alert(1)</script> | `x` <img src=x onerror=alert(2)>\nsecond line"


class Tags(HTMLParser):
    """Names of tags, and every address that the page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.names, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]


def page_of(frame, header, folder):
    return build_report(frame, header, folder).read_text(encoding="utf-8")


def test_a_report_is_one_page_that_needs_nothing_else(sweep_report):
    page = (sweep_report / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert "script" not in tags.names
    assert all(address.startswith(("data:image/", "#")) for address in tags.addresses)
    assert "@import" not in page
    assert len(page) < 3_000_000
    names = {figure.name for figure in (sweep_report / "figures").iterdir()}
    assert {"kv_cache.png", "kv_cache.svg", "workspace.png", "speed_up_decode.svg"} <= names
    markdown = (sweep_report / "report.md").read_text(encoding="utf-8")
    for figure in re.findall(r"\((figures/[^)]+)\)", markdown):
        assert (sweep_report / figure).is_file()


def test_the_run_is_told(sweep_report):
    page = (sweep_report / "report.html").read_text(encoding="utf-8")
    for text in (
        "run-a",
        "2025-03-04 05:06 UTC",
        "Example GPU",
        "torch 2.11.0",
        "gqabench sweep study=default",
        "80 GiB",
    ):
        assert text in page
    assert 'class="banner"' not in page


@pytest.mark.usefixtures("without_figures")
def test_a_partial_run_says_so_and_how_much_there_is(record, frame_of, header, tmp_path):
    frame = frame_of([record("sdpa"), record("flex")])
    page = page_of(frame, header | {"status": "partial", "num_planned_records": 8}, tmp_path)
    assert "This run is partial: 2 of 8 planned records exist (25 %)" in page
    assert "2 of 8" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("status", "num_planned", "warning"),
    [
        ("running", 4, "This run is still running: 1 of 4 planned records exist (25 %)"),
        ("complete", 2, "Records are missing: 1 of 2"),
        ("partial", None, "of an unknown number planned"),
    ],
)
def test_other_ways_to_be_short(record, frame_of, header, tmp_path, status, num_planned, warning):
    header = header | {"status": status, "num_planned_records": num_planned}
    assert warning in page_of(frame_of([record("sdpa")]), header, tmp_path)


def test_text_of_others_is_escaped(record, frame_of, header, tmp_path):
    frame = frame_of(
        [
            record("sdpa", outcome=Outcome.ERROR, reason=HOSTILE),
            record("<b>evil</b>", flags=["<i>flag</i>"]),
            record("<b>evil</b>", kv_len=8192, model="<u>model</u>"),
        ]
    )
    hostile = header | {
        "study": "<script>study</script>",
        "command": HOSTILE,
        "machine": {"<i>cpu": "<script>x"},
    }
    page = page_of(frame, hostile, tmp_path)
    tags = Tags(page)
    assert not {"script", "b", "i", "u"} & set(tags.names)
    assert tags.names.count("img") == page.count("data:image/")
    assert "&lt;script&gt;alert(1)" in page
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    table = next(line for line in markdown.splitlines() if line.startswith("| error"))
    assert "<script>" not in table
    assert "\\| \\`x\\`" in table
    assert "second line" in table  # one row stays one line


@pytest.mark.parametrize("header", [{}, [], {"machine": None, "created_at": "soon", "command": ["a", "b"]}])
def test_headers_may_lack_anything(record, frame_of, header, tmp_path):
    assert "What this shows" in page_of(frame_of([record("sdpa")]), header, tmp_path)


def test_torch_is_the_library_not_its_threads(sweep_frame, header):
    machine = {"threads": {"torch": 2}, "libraries": {"torch": "2.11.0"}}
    assert run_views(sweep_frame, [header | {"machine": machine}])[0].line.endswith("torch 2.11.0")


def test_models_of_one_shape_each_count(record, frame_of, header):
    same = {"cell_id": "one", "case_id": "one"}
    frame = frame_of([record("sdpa", model=model, **same) for model in ("llama2_70b", "llama3_70b")])
    (view,) = run_views(frame, [header | {"num_planned_records": 2}])
    assert view.warning == ""
    failed = record("sdpa", model="qwen2_5_72b", outcome=Outcome.OOM, reason="memory", **same)
    assert len(tidy(pd.concat([frame, frame_of([failed])], ignore_index=True))) == 3


@pytest.mark.usefixtures("without_figures")
def test_several_runs_each_have_their_line(record, frame_of, header, tmp_path):
    frame = frame_of([record("sdpa"), record("sdpa", run_id="run-b"), record("flex", run_id="run-b")])
    headers = [
        header | {"num_planned_records": 1},
        {"run_id": "run-b", "status": "partial", "num_planned_records": 4},
    ]
    page = page_of(frame, headers, tmp_path)
    assert "run-b: This run is partial: 2 of 4" in page
    assert "run-a: " not in page
    assert "sdpa · run 2" in page
    assert "run-b" in page_of(frame, header, tmp_path)  # a run without a header is named too


def test_an_empty_frame_gives_a_page(tmp_path):
    page = page_of(pd.DataFrame(), {}, tmp_path)
    assert "There are no records yet." in page
    assert "All figures</strong>: there are no records yet." in page


def test_a_single_record_gives_a_page(record, frame_of, header, tmp_path):
    page = page_of(frame_of([record("sdpa")]), header, tmp_path)
    assert "decode · 8 KV heads (GQA) · context 4K · batch 1" in page
    assert "data:image/" not in page


def test_no_ok_row_gives_a_page_with_the_reasons(record, frame_of, header, tmp_path):
    failed = [record(impl, outcome=Outcome.TIMEOUT, reason="120 s") for impl in ("sdpa", "flex")]
    page = page_of(frame_of(failed), header, tmp_path)
    assert "No row has the outcome ok." in page
    assert "120 s" in page
    assert "2 records: 2 timeout" in page


def test_the_given_frame_is_not_changed(sweep_report, sweep_frame, sweep, frame_of):
    pd.testing.assert_frame_equal(sweep_frame, frame_of(sweep()))


def test_results_stand_by_problem_with_the_best_in_bold(sweep_frame):
    table = results_table(tidy(sweep_frame))
    titles = [column.title for column in table.columns]
    assert titles[:4] == ["impl", "latency (ms)", "interval (ms)", "tokens/s"]
    assert titles[-1] == "flags"
    assert "% of roof" in titles
    assert not {"warm (ms)", "energy per call", "per token", "error ratio", "checked queries"} & set(titles)
    assert [group.title for group in table.groups][:2] == [
        "decode · 32 KV heads (MHA) · context 2K · batch 1",
        "decode · 32 KV heads (MHA) · context 2K · batch 16",
    ]
    for group in table.groups:
        assert group.rows[0][1].strong
        assert not group.rows[-1][1].strong
    assert table.num_rows == 120
    assert "In all rows: llama3_8b, 32 query heads, head_dim 128, float16." in table.note


def test_a_long_table_says_what_it_leaves_out(sweep_frame):
    table = results_table(tidy(sweep_frame), max_rows=10)
    assert table.num_rows == 10
    assert "The first 10 of 120 rows by problem; 110 are left out here" in table.note


def test_failures_with_one_reason_are_one_line(sweep_frame):
    table = failures_table(tidy(sweep_frame))
    (row,) = table.groups[0].rows
    assert [cell.text for cell in row[:4]] == [
        "unsupported",
        "flex",
        "6",
        "flex: num_kv_heads=1 is not supported here",
    ]
    assert row[4].text.startswith("decode · 1 KV head (MQA) · context 2K · batch 1; ")
    assert row[4].text.endswith("and 3 more")


def test_outcomes_and_flags_are_counted(sweep_frame):
    frame = tidy(sweep_frame)
    outcomes = {row[0].text: [cell.text for cell in row[1:]] for row in outcomes_table(frame).groups[0].rows}
    assert outcomes["flex"] == ["12", "6"]
    assert outcomes["sdpa"] == ["18", ""]
    (flag,) = flags_table(frame).groups[0].rows
    assert [cell.text for cell in flag][:2] == ["unstable", "6"]


def test_findings_are_computed(sweep_frame):
    texts = [f"{finding.title}. {finding.text}" for finding in key_findings(tidy(sweep_frame))]
    assert "shrinks by exactly 32×" in texts[0]
    assert texts[1].startswith(
        "Decode: sdpa_flash is fastest on 17 of 18 problems, and with others, within their intervals, on "
        "1 more. Over repeat_kv it is "
    )
    assert "in sdpa" in texts[2]
    assert texts[3].startswith("repeat_kv and repeat_kv_sdpa need as much workspace as the cache of MHA")
    assert texts[4] == "126 records: 120 ok and 6 unsupported. The reasons are listed under “Not measured”."
    assert texts[5].startswith("6 of 120 latencies in doubt. Flags: unstable (6).")


def test_a_killed_report_leaves_the_old_page(record, frame_of, header, tmp_path, monkeypatch):
    frame = frame_of([record("sdpa")])
    old = page_of(frame, header, tmp_path)

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("gqabench.reports.writing.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build_report(frame, header | {"study": "new"}, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_ten_thousand_records_give_a_light_page(swept_many, header, tmp_path):
    page = page_of(swept_many, header, tmp_path)
    assert len(page) < 3_000_000
    assert re.search(r"The first 500 of [\d,]+ rows by problem; [\d,]+ are left out here", page)


def test_expansion_is_what_takes_the_cache_of_mha(record, frame_of):
    cache = record("sdpa", num_kv_heads=8, dtype="float16").kv_cache_bytes_model
    shares = {"wide_copies": 2.0, "sdpa_math": 6.0, "repeat_kv": 4.04, "repeat_kv_sdpa": 4.0, "sdpa": 0.1}
    frame = tidy(
        frame_of(
            [
                record(impl, num_kv_heads=8, peak_workspace_bytes=round(share * cache))
                for impl, share in shares.items()
            ]
        )
    )
    assert expanding_arms(frame) == ["repeat_kv", "repeat_kv_sdpa", "sdpa_math"]
    finding = expansion_finding(frame)
    assert finding is not None
    assert (
        finding.title == "repeat_kv, repeat_kv_sdpa and sdpa_math need as much workspace as the cache of MHA"
    )
    assert "1× to 1.5× the bytes of K and V expanded to all query heads" in finding.text
    none = expansion_finding(frame[frame["impl"].isin(["wide_copies", "sdpa"])])
    assert none is not None
    assert none.title.startswith("No implementation needs as much workspace")


def test_a_fixed_buffer_beside_a_small_cache_is_no_expansion(record, frame_of):
    rows = [record("sdpa", kv_len=length, peak_workspace_bytes=2**23) for length in (64, 128, 256, 16384)]
    assert expanding_arms(tidy(frame_of(rows))) == []


def test_a_finding_claims_no_winner_within_the_intervals(record, frame_of):
    rows = [
        record(impl, kv_len=length, latency_ms=latency, latency_ci_low_ms=low, latency_ci_high_ms=2.0)
        for length in (512, 2048)
        for impl, latency, low in (("sdpa", 1.0, 0.5), ("flex", 1.1, 0.6))
    ]
    frame = tidy(frame_of([*rows, record("repeat_kv", kv_len=512, latency_ms=9.0, latency_ci_low_ms=8.0)]))
    finding = speed_finding(frame, "decode")
    assert finding is not None
    assert finding.title == "Decode: sdpa and flex are fastest, within their intervals, on 2 of 2 problems"


def test_findings_prefer_rows_without_flags_and_else_say_so(record, frame_of):
    sure = [record("repeat_kv", latency_ms=4.0), record("sdpa", latency_ms=2.0, latency_ci_low_ms=1.9)]
    doubtful = [
        record("repeat_kv", kv_len=8192, latency_ms=88.0, flags=["unstable"], latency_ci_low_ms=80.0),
        record("sdpa", kv_len=8192, latency_ms=2.0, latency_ci_low_ms=1.9, latency_ci_high_ms=2.1),
    ]
    both = speed_finding(tidy(frame_of(sure + doubtful)), "decode")
    assert both is not None
    assert "it is 2× as fast (geometric mean of 1 shared problem without flags" in both.text
    only = speed_finding(tidy(frame_of(doubtful)), "decode")
    assert only is not None
    assert "it is 44× as fast (unstable) (geometric" in only.text


def test_intervals_stand_with_both_ends_in_both_pages(record, frame_of, header, tmp_path):
    frame = frame_of([record("sdpa", latency_ms=1.5, latency_ci_low_ms=0.73, latency_ci_high_ms=24.0)])
    page = page_of(frame, header, tmp_path)
    assert '<td class="n">0.730 – 24.0</td>' in page
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| 0.730 – 24.0 |" in markdown
    assert "±" not in page + markdown


def test_a_sampled_check_is_told(record, frame_of):
    rows = [
        record("sdpa", phase="prefill", kv_len=16384, num_checked_queries=39),
        record("sdpa", phase="prefill", kv_len=512, num_checked_queries=512),
    ]
    frame = tidy(frame_of(rows))
    assert method_notes(frame)[0].endswith(
        "In 1 of 2 rows it was checked at some queries: 39 of 16,384 queries per sequence, first and last "
        "among them."
    )
    assert column_of(frame, "checked queries") == ["all", "39 of 16,384"]
    whole = tidy(frame_of(rows[1:]))
    assert "some queries" not in method_notes(whole)[0]
    assert column_of(whole, "checked queries") is None


def column_of(frame, title):
    table = results_table(frame)
    titles = [column.title for column in table.columns]
    if title not in titles:
        return None
    return [row[titles.index(title)].text for group in table.groups for row in group.rows]


def test_what_was_measured_besides_has_columns(record, frame_of):
    row = record(
        "sdpa", warm_latency_ms=0.5, energy_j_per_call=0.0123, energy_j_per_token=4.2e-6, roof_fraction=0.87
    )
    row = replace(row, graph_latency_ms=0.9, kernel_ms=0.85, eager_ms=1.25)
    frame = tidy(frame_of([row]))
    assert column_of(frame, "warm (ms)") == ["0.500"]
    assert column_of(frame, "graph (ms)") == ["0.900"]
    assert column_of(frame, "kernels (ms)") == ["0.850"]
    assert column_of(frame, "eager (ms)") == ["1.25"]
    assert column_of(frame, "energy per call") == ["12.3 mJ"]
    assert column_of(frame, "energy per token") == ["4.2 µJ"]
    assert column_of(frame, "% of roof") == ["87 %"]
    assert {"warm", "energy per call", "graph", "kernels", "eager", "% of roof"} <= {
        word for word, _ in glossary_of(frame)
    }


def test_an_error_ratio_stands_instead_of_error_and_budget(record, frame_of):
    raw = frame_of([record("sdpa")])
    assert column_of(tidy(raw), "error / budget") == ["4.1e-4 / 2.0e-3"]
    frame = tidy(raw.assign(error_ratio=0.21))
    assert column_of(frame, "error ratio") == ["0.21"]
    assert column_of(frame, "error / budget") is None


@pytest.mark.usefixtures("without_figures")
def test_memory_is_told_of_the_largest_problem(record, frame_of, header, tmp_path):
    rows = [
        record(impl, kv_len=kv_len, prepared_bytes=0, process_bytes=2**30, unexplained_bytes=3 * 2**28)
        for impl in ("sdpa", "repeat_kv")
        for kv_len in (1024, 4096)
    ]
    table = memory_table(tidy(frame_of(rows)))
    assert [column.title for column in table.columns][-2:] == ["process", "unexplained"]
    (group,) = table.groups
    assert "4K" in group.title
    lines = {row[0].text: [cell.text for cell in row[1:]] for row in group.rows}
    assert lines.keys() == {"sdpa", "repeat_kv"}
    assert lines["sdpa"][-2:] == ["1 GiB", "768 MiB"]
    assert "graph pool" not in [column.title for column in table.columns]
    assert "Where the memory is" in page_of(frame_of(rows), header, tmp_path)


@pytest.mark.usefixtures("without_figures")
def test_set_up_times_are_told_by_implementation(record, frame_of, header, tmp_path):
    assert setup_table(tidy(frame_of([record("sdpa")]))).num_rows == 0
    rows = [
        record("flex", prepare_ms=time, compile_ms=time / 2, kv_len=64) for time in (1000.0, 2000.0, 9000.0)
    ]
    (line,) = setup_table(tidy(frame_of(rows))).groups[0].rows
    assert [cell.text for cell in line] == ["flex", "3", "2 s, up to 9 s", "1 s, up to 4.5 s"]
    assert "Set-up times" in page_of(frame_of(rows), header, tmp_path)


def test_conditions_are_told_where_they_were_seen(record, frame_of):
    rows = [
        record("sdpa", clock_mhz=clock, throttle_reasons=["sw_power_cap"], background_load=0.25)
        for clock in (1500.0, 1980.0)
    ]
    notes = " ".join(method_notes(tidy(frame_of(rows))))
    assert "Clock while timing: 1,500 to 1,980 MHz" in notes
    assert "sw_power_cap" in notes
    assert "up to 0.25 cores busy" in notes


def test_the_line_of_a_run_has_its_threads(sweep_frame, header):
    machine = header["machine"] | {"threads": {"num_torch_threads": 2}}
    assert run_views(sweep_frame, [header | {"machine": machine}])[0].line.endswith(
        "torch 2.11.0 · 2 threads"
    )
    assert "thread" not in run_views(sweep_frame, [header])[0].line


def test_what_is_level_with_the_best_is_as_strong(record, frame_of):
    rows = [
        record(impl, latency_ms=latency, latency_ci_low_ms=latency - 0.1, latency_ci_high_ms=latency + 0.1)
        for impl, latency in (("sdpa", 1.0), ("flex", 1.15), ("repeat_kv", 1.3))
    ]
    (group,) = results_table(tidy(frame_of(rows))).groups
    assert [row[1].strong for row in group.rows] == [True, True, False]
