"""Memory moves to huge pages as a whole, and nothing else does."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gqabench.attention_impls import AttentionProblem
from gqabench.harness.worker.memory import huge_pages
from gqabench.harness.worker.memory.huge_pages import ask_for_huge_pages, use_huge_pages
from gqabench.harness.worker.memory.resident_set import resident_set_bytes
from gqabench.harness.worker.session import Session

MIB = 2**20
NOTHING = torch.empty(0)


def can_collapse() -> bool:
    """Whether this kernel moves memory to huge pages when it is told to: tried, in a process of its own."""
    program = (
        "import ctypes, mmap; m = mmap.mmap(-1, 2**23, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "m.write(b'x' * 2**23); a = ctypes.addressof(ctypes.c_char.from_buffer(m)); a += -a % 2**21\n"
        "raise SystemExit(ctypes.CDLL(None).madvise(ctypes.c_void_p(a), ctypes.c_size_t(2**21), 25) != 0)"
    )
    is_sized = huge_pages._huge_page_bytes() == 2 * MIB
    return is_sized and subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


needs_collapse = pytest.mark.skipif(
    sys.platform != "linux" or not can_collapse(), reason="this kernel has no MADV_COLLAPSE, or other pages"
)


def huge_bytes(address: int, num_bytes: int) -> int:
    """Return what lies on huge pages, of the mappings that a range is in."""
    found, is_inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):
            start, end = (int(one, 16) for one in first.split("-"))
            is_inside = start < address + num_bytes and end > address
        elif is_inside and first == "AnonHugePages:":
            found += int(rest.split()[0]) * 1024
    return found


def small_pages(num_bytes: int) -> mmap.mmap:
    """Return memory that stays on small pages unless it is moved, between pages of no access."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, num_bytes, 2 * MIB):
        memory[start] = 1
    return memory


@needs_collapse
def test_tensors_and_arrays_move_and_keep_their_values() -> None:
    tensor, array = torch.arange(4 * MIB, dtype=torch.int32), np.arange(2 * MIB, dtype=np.int64)
    share = use_huge_pages(but_not=NOTHING)
    assert share is not None
    assert share > 0.5  # of all this process; the kernel may not find pages for every part of it
    assert huge_bytes(tensor.data_ptr(), tensor.nbytes) >= tensor.nbytes // 2
    assert huge_bytes(array.ctypes.data, array.nbytes) >= array.nbytes // 2
    assert torch.equal(tensor, torch.arange(4 * MIB, dtype=torch.int32))
    assert np.array_equal(array, np.arange(2 * MIB))


@needs_collapse
def test_what_is_not_resident_is_not_made_so() -> None:
    sparse = small_pages(256 * MIB)  # a page in each stretch of a huge page's size
    use_huge_pages(but_not=NOTHING)
    before = resident_set_bytes()
    use_huge_pages(but_not=NOTHING)
    after = resident_set_bytes()
    assert before is not None
    assert after is not None
    assert after - before < 16 * MIB
    assert huge_bytes(ctypes.addressof(ctypes.c_char.from_buffer(sparse)), 256 * MIB) < 64 * MIB


@needs_collapse
def test_one_tensor_is_left_out() -> None:
    kept, moved = torch.ones(16 * MIB), torch.ones(16 * MIB)
    use_huge_pages(but_not=kept)
    apart = range(kept.data_ptr(), kept.data_ptr() + kept.nbytes)
    runs = list(huge_pages._resident_runs(apart))
    assert all(start + size <= apart.start or start >= apart.stop for start, size in runs)
    assert any(
        start < moved.data_ptr() + moved.nbytes and start + size > moved.data_ptr() for start, size in runs
    )


@needs_collapse
def test_large_blocks_on_the_heap_move_too() -> None:
    """malloc serves them there once it has seen others of the size come and go."""
    torch.ones(7 * MIB)  # 28 MiB: freed at once, which raises malloc's threshold
    on_heap = [torch.ones(2 * MIB) for _ in range(4)]
    ends = [one.data_ptr() + one.nbytes for one in on_heap]
    use_huge_pages(but_not=NOTHING)
    runs = list(huge_pages._resident_runs(range(0)))
    for one, end in zip(on_heap, ends, strict=True):
        assert any(start < end and start + size > one.data_ptr() for start, size in runs)


@pytest.mark.parametrize(
    ("line", "is_allocated"),
    [
        ("7f00-7f10 rw-p 00000000 00:00 0 ", True),
        ("55d0-55f0 rw-p 00000000 00:00 0                          [heap]", True),
        ("7f00-7f10 rw-p 00000000 00:00 0    [anon:glibc: malloc arena]", True),
        ("7f00-7f10 rw-p 00000000 00:00 0    [stack]", False),
        ("7f00-7f10 r--p 00000000 00:00 0 ", False),
        ("7f00-7f10 rw-s 00000000 00:01 7    /dev/zero (deleted)", False),
        ("7f00-7f10 rw-p 00001000 fe:00 1234 /usr/lib/libtorch.so", False),
    ],
)
def test_which_mappings_are_of_allocators(line: str, is_allocated: bool) -> None:
    assert bool(huge_pages._ALLOCATED.fullmatch(line)) == is_allocated


def test_a_process_that_does_not_say_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_MAPPINGS", tmp_path / "nothing")
    assert use_huge_pages(but_not=NOTHING) is None


@pytest.mark.parametrize("text", [None, "", "0"])
def test_without_huge_pages_nothing_is_asked_for(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = tmp_path / "hpage_pmd_size"
    if text is not None:
        size.write_text(text)
    monkeypatch.setattr(huge_pages, "_HUGE_PAGE_SIZE", size)
    monkeypatch.setattr(huge_pages, "_advise", lambda *_: pytest.fail("advised"))
    assert use_huge_pages(but_not=NOTHING) is None
    ask_for_huge_pages(torch.empty(4 * MIB))


def test_the_share_is_of_what_the_kernel_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    monkeypatch.setattr(huge_pages, "_huge_page_bytes", lambda: 2 * MIB)
    monkeypatch.setattr(huge_pages, "_resident_runs", lambda _: [(0, 4 * MIB), (8 * MIB, 4 * MIB)])

    def answer(refused: dict[tuple[int, int], int]) -> float | None:
        monkeypatch.setattr(
            huge_pages, "_advise", lambda start, num_bytes, _: refused.get((start, num_bytes), 0)
        )
        return use_huge_pages(but_not=NOTHING)

    assert answer({}) == 1.0
    assert answer({(0, 4 * MIB): errno.ENOMEM, (2 * MIB, 2 * MIB): errno.ENOMEM}) == 0.75
    every = {(start, size) for start in (0, 2 * MIB, 8 * MIB, 10 * MIB) for size in (2 * MIB, 4 * MIB)}
    assert answer(dict.fromkeys(every, errno.ENOMEM)) == 0.0
    assert answer(dict.fromkeys(every, errno.EINVAL)) is None  # an older kernel knows no such advice


@pytest.mark.parametrize("is_wanted", [True, False])
def test_an_arm_is_moved_once_it_is_prepared(is_wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def use(but_not: torch.Tensor) -> float:
        kept.append(but_not)
        return 0.5

    monkeypatch.setattr("gqabench.harness.worker.open_case.use_huge_pages", use)
    problem = AttentionProblem(
        batch_size=1, q_len=1, kv_len=32, num_q_heads=4, num_kv_heads=2, head_dim=16, dtype="float32",
        device="cpu",
    )  # fmt: skip
    session = Session()
    session.open_case(vars(problem), "decode", 64, 0, 1.0, huge_pages=is_wanted)
    prepared = session.case.prepare("sdpa", "sdpa")
    assert prepared.huge_page_share == (0.5 if is_wanted else None)
    assert [one.nbytes for one in kept] == ([session._clock("cpu").flush_buffer.nbytes] if is_wanted else [])
