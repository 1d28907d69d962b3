from __future__ import annotations

import pytest

from gqabench.attention_impls import AttentionProblem
from gqabench.harness.cases.capacity import Capacity, capacity, parse_size
from gqabench.harness.cli import main
from gqabench.harness.errors import UsageError

GIB = 1 << 30


def problem(**changes: object) -> AttentionProblem:
    values = {
        "batch_size": 1, "q_len": 1, "kv_len": 1000, "num_q_heads": 32, "num_kv_heads": 8, "head_dim": 128,
        "dtype": "bfloat16", "device": "cpu",
    }  # fmt: skip
    return AttentionProblem(**values | changes)  # type: ignore[arg-type]


def test_by_hand() -> None:
    """Llama 3 8B: 32 layers x 2 x 8 x 128 x 2 bytes are 128 KiB a token."""
    assert capacity(problem(), 32, GIB) == Capacity(131_072, 8192, 8, None)
    assert capacity(problem(num_kv_heads=32), 32, GIB) == Capacity(524_288, 2048, 2, None)
    assert capacity(problem(num_kv_heads=1), 32, GIB) == Capacity(16_384, 65_536, 65, None)
    assert capacity(problem(), 32, 131_071) == Capacity(131_072, 0, 0, None)
    assert capacity(problem(), 32, 0) == Capacity(131_072, 0, 0, None)


def test_scales_of_a_quantised_cache_count() -> None:
    per_token = 32 * 2 * 8 * (128 + 4)
    assert capacity(problem(kv_dtype="int8"), 32, GIB) == Capacity(
        per_token, GIB // per_token, GIB // per_token // 1000, None
    )


def test_a_sequence_takes_whole_pages() -> None:
    """8192 tokens are 32 pages of 256; 1000 tokens take four of them, 1024 as well, 1025 five."""
    assert capacity(problem(page_size=256), 32, GIB) == Capacity(131_072, 8192, 8, None)
    assert capacity(problem(page_size=256, kv_len=1024), 32, GIB).num_sequences == 8
    assert capacity(problem(page_size=256, kv_len=1025), 32, GIB).num_sequences == 6
    assert capacity(problem(page_size=256), 32, GIB - 1).num_tokens == 31 * 256


def test_a_window_counts_only_in_a_ring_buffer() -> None:
    assert capacity(problem(window=100), 32, GIB) == Capacity(131_072, 8192, 8, 81)
    assert capacity(problem(window=1000), 32, GIB).num_windowed_sequences is None
    assert capacity(problem(window=100, page_size=64), 32, GIB).num_windowed_sequences == 128 // 2


def test_neither_batch_nor_lengths_matter() -> None:
    assert capacity(problem(batch_size=2, kv_lens=(3, 7)), 32, GIB) == capacity(problem(), 32, GIB)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("80GB", 80 * 10**9),
        ("80GiB", 80 * GIB),
        ("1.5kB", 1500),
        ("0.5 KiB", 512),
        ("7", 7),
        ("0", 0),
        ("2B", 2),
    ],
)
def test_sizes(text: str, num_bytes: int) -> None:
    assert parse_size("--memory", text) == num_bytes


@pytest.mark.parametrize("text", ["", "80G", "80gb", "-1GB", "GB", "1e9", "80 GB free", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be a size such as 80GiB or 80GB"):
        parse_size("--memory", text)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    assert main(["plan", *arguments]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_row_for_each_number_of_kv_heads(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, "--memory", "65GiB", "--reserved", "1GiB", "model=llama3_8b", "kv_len=8192")
    assert [line[0] for line in lines[3:]] == ["32", "16", "8", "4", "2", "1"]
    assert lines[3] == ["32", "MHA", "1", "524,288", "131,072", "16"]
    assert lines[5] == ["8", "GQA,", "the", "model's", "4", "131,072", "524,288", "64"]


def test_ranks_keep_copies_of_scarce_heads(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, "--memory", "10GB", "model=llama3_70b", "tp=16", "num_kv_heads=16,8")
    per_rank = f"{80 * 2 * 128 * 2:,}"
    assert [line[3] for line in lines[3:5]] == [per_rank, per_rank]
    assert " ".join(lines[5]) == "with fewer KV heads than ranks (tp=16), each rank keeps a copy of one"


def test_several_shapes_are_several_tables(capsys: pytest.CaptureFixture[str]) -> None:
    lines = plan(capsys, "--memory", "1GB", "model=qwen2_5_7b,falcon_7b", "num_kv_heads=4,71")
    assert [line[0] for line in lines if line[:1] in (["qwen2_5_7b:"], ["falcon_7b:"])] == [
        "qwen2_5_7b:",
        "falcon_7b:",
    ]
    assert ["71", "-", "-", "-", "-"] in lines
    assert ["num_kv_heads=71:", "must", "divide", "num_q_heads=28;"] in [line[:4] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--memory", "80G"], "--memory 80G: must be a size"),
        (["--memory", "1GB", "--reserved", "1GB"], "--reserved 1GB: must be less than --memory 1GB"),
        (["--memory", "1GB", "llama3_8b"], "llama3_8b: must be key=value"),
        (["--memory", "1GB", "kv_len=0"], "kv_len=0: must be a positive whole number"),
        (["--memory", "1GB", "kv_dtype=int9"], "kv_dtype=int9: must be one of int8"),
        (["--memory", "1GB", "model=llama"], "model=llama: unknown; valid: falcon_7b"),
        (["--memory", "1GB", "num_layers=null"], "num_layers=null: must be a positive whole number"),
        (["--memory", "1GB", "tp=3"], "tp=3: must divide num_q_heads=32"),
        (["--memory", "1GB", "--json"], "unrecognized arguments: --json"),
    ],
)
def test_mistakes_are_said(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    try:
        code = main(["plan", *arguments])
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert complaint in capsys.readouterr().err
