"""`import gqabench` in a program: what the commands give, as functions."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.version import VersionBase, getbase, setbase

import gqabench
from gqabench.harness.cli import main
from gqabench.harness.sweep.display_choice import make_display
from gqabench.harness.sweep.notebook_display import NotebookDisplay
from gqabench.harness.sweep.overrides import overrides_of
from gqabench.harness.sweep.progress import LogDisplay, SilentDisplay
from gqabench.results import Record, RunFolder

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
WARM = {"measure.caches": ["warm"]}
"""For what is not about times: flushing cold caches takes most of a small measurement."""
IMPLS = ["sdpa", "repeat_kv"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers of several threads wait for each other where other tests run beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def process_state() -> tuple[object, ...]:
    """What a call must leave as it was, in a program that may be anything."""
    root = logging.getLogger()
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    hydra = (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, getbase())
    return signals, list(root.handlers), root.level, hydra, list(sys.argv), Path.cwd()


@dataclass(frozen=True)
class Guide:
    """What the blocks of `docs/python.md` left behind."""

    folder: Path
    names: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Guide:
    """Run in a program in which an event loop runs, as in a notebook, and that uses Hydra itself."""
    folder = tmp_path_factory.mktemp("guide")
    names: dict[str, Any] = {}

    smoke = 'measure="smoke",'
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.replace(smoke, f"{smoke} **{WARM}"), re.DOTALL)
    assert str(WARM) in blocks[0]

    async def run() -> None:
        for block in blocks:
            exec(block, names)

    setbase("1.2")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        before = process_state()
        asyncio.run(run())
        assert process_state() == before
    Singleton._instances.pop(VersionBase)
    return Guide(folder, names, printed.getvalue())


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures out of reports: the guide's has them."""
    monkeypatch.setattr("gqabench.reports.page.draw_figures", lambda frame: ([], []))


@pytest.fixture(scope="module")
def frame(guide: Guide) -> pd.DataFrame:
    """What the guide measured."""
    measured = guide.names["frame"]
    assert isinstance(measured, pd.DataFrame)
    return measured


# The package itself


def test_importing_it_costs_nothing() -> None:
    program = (
        "import sys, gqabench; print(sorted({'numpy', 'pandas', 'torch', 'hydra'} & set(sys.modules)));"
        "from gqabench import results; print(results.__name__, gqabench.load is results.load)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert completed.stdout.splitlines() == ["[]", "gqabench.results True"]


def test_every_public_name_is_there() -> None:
    assert set(gqabench.__all__) <= set(dir(gqabench))
    assert all(getattr(gqabench, name) is not None for name in gqabench.__all__)
    assert issubclass(gqabench.UsageError, ValueError)
    with pytest.raises(AttributeError, match="has no attribute 'meassure'"):
        _ = gqabench.meassure  # type: ignore[attr-defined]


def test_a_type_checker_knows_it_from_outside(tmp_path: Path) -> None:
    if find_spec("mypy") is None or not (ROOT / ".mypy_cache").is_dir():
        pytest.skip("needs mypy, and what it keeps of `make check`: without, it reads torch for minutes")
    client = tmp_path / "client.py"
    client.write_text(
        "import gqabench\n"
        "frame = gqabench.measure(kv_len=[64, 256], impls=['sdpa'], measure={'energy': False})\n"
        "reveal_type(frame)\n"
        "reveal_type(gqabench.plan(memory='80GB', tp=2))\n"
        "reveal_type(gqabench.figure('latency', frame))\n"
        "reveal_type(gqabench.report(['a', 'b']))\n"
        "reveal_type(gqabench.__version__)\n"
        "gqabench.measure(batch_size={1, 2})\n"
        "gqabench.figure(frame)\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--no-error-summary",
        "--config-file",
        "pyproject.toml",
        str(client),
    ]
    lines = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    ).stdout.splitlines()
    revealed = [
        match[1].removeprefix("builtins.")
        for line in lines
        if (match := re.search(r'Revealed type is "(.+)"', line))
    ]
    assert revealed == [
        "pandas.core.frame.DataFrame", "pandas.core.frame.DataFrame", "matplotlib.figure.Figure",
        "pathlib.Path", "str",
    ], lines  # fmt: skip
    errors = [line.split(": error: ")[0].rpartition(":")[2] for line in lines if ": error: " in line]
    assert set(errors) == {"8", "9"}, lines


# Keys


@pytest.mark.parametrize(
    ("keys", "overrides"),
    [
        ({"batch_size": 1, "kv_len": [64, 256]}, ["batch_size=1", "kv_len=64,256"]),
        ({"kv_len": range(1, 3), "tp": (1,)}, ["kv_len=1,2", "tp=1"]),
        ({"batch_size": pd.Series([1, 8]).to_numpy()}, ["batch_size=1,8"]),
        ({"window": None, "resume": "latest"}, ["window=null", "resume=latest"]),
        ({"impls": ["sdpa", "a b/c.py:D"]}, ["impls=[sdpa,'a b/c.py:D']"]),
        ({"impls": [["sdpa"], ["repeat_kv"]]}, ["impls=[sdpa],[repeat_kv]"]),
        ({"measure": "smoke", "measure.energy": False}, ["measure=smoke", "measure.energy=false"]),
        (
            {"measure": {"caches": ["cold"], "slice_ms": 0.5}},
            ["measure.caches=[cold]", "measure.slice_ms=0.5"],
        ),
        ({"environments": {"a": {"python": Path("/x")}}}, ["environments.a.python='/x'"]),
        ({"kv_dtype": [None, "int8"], "study": "null"}, ["kv_dtype=null,int8", "study='null'"]),
    ],
)
def test_values_become_what_a_command_line_says(keys: dict[str, Any], overrides: list[str]) -> None:
    assert overrides_of(keys) == overrides


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"batch_size": []}, r"batch_size=\[\]: needs a value"),
        ({"batch_size": {1, 2}}, r"batch_size=\{1, 2\}: must be a number, a text"),
        ({"kv_len": [[64]]}, r"kv_len=\[64\]: must be a number"),
        ({"kv_len=3 tp": 1}, "kv_len=3 tp: must be a key of a sweep"),
    ],
)
def test_what_is_no_value_is_said(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(gqabench.UsageError, match=complaint):
        overrides_of(keys)


# Measuring


def test_the_guide_runs_and_prints_what_it_says(guide: Guide) -> None:
    names = guide.names
    assert names["frame"].attrs["run"].startswith(f"{guide.folder}{os.sep}")
    assert names["page"].is_file() and (guide.folder / "latency.svg").is_file()
    assert len(list(names["page"].parent.glob("figures/*.svg"))) > 3
    assert len(names["all_runs"]) == len(names["same"]) == 8
    assert tuple(names["output"].shape) == (1, 8, 1, 64)
    [shown] = re.findall(r"```text\n(.*?)```", GUIDE, re.DOTALL)
    assert shown in guide.printed


def test_a_frame_of_the_run(frame: pd.DataFrame) -> None:
    assert frame["outcome"].tolist() == ["ok"] * 8
    measured = set(zip(frame["impl"], frame["num_kv_heads"], frame["kv_len"], strict=True))
    assert measured == set(itertools.product(IMPLS, (8, 2), (64, 256)))
    pd.testing.assert_frame_equal(gqabench.load(frame.attrs["run"]), frame)


@pytest.mark.usefixtures("without_figures")
def test_the_cells_are_those_of_the_command(frame: pd.DataFrame, tmp_path: Path) -> None:
    keys = ["model=gqa_8_2", "num_kv_heads=8,2", "kv_len=64", "impls=[sdpa]", "measure=smoke"]
    assert main(["sweep", "-m", *keys, "measure.caches=[warm]", f"results_dir={tmp_path}"]) == 0
    identity = ["case_id", "cell_id", "impl", "num_kv_heads"]
    same = gqabench.load(tmp_path / "latest")[identity]
    mine = frame.query("kv_len == 64 and impl == 'sdpa'")[identity]
    assert len(same) == 2
    assert sorted(same.itertuples(index=False)) == sorted(mine.itertuples(index=False))


def test_the_run_says_how_a_command_line_repeats_it(frame: pd.DataFrame) -> None:
    header = RunFolder(Path(frame.attrs["run"])).header()
    assert header.status == "complete"
    command = shlex.split(header.command)
    assert command[:3] == ["gqabench", "sweep", "-m"]
    assert {"num_kv_heads=8,2", "kv_len=64,256", "impls=[sdpa,repeat_kv]", "measure=smoke"} <= set(command)


class PressesCtrlC(SilentDisplay):
    """A person who has seen enough after one record."""

    def add_record(self, record: Record) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqabench.harness.interface.measure.make_display", PressesCtrlC)
    before = process_state()
    with pytest.raises(KeyboardInterrupt, match="interrupted; what was measured is in ") as caught:
        gqabench.measure(
            model="gqa_8_2", kv_len=64, impls=IMPLS, measure="smoke", results_dir=tmp_path, **WARM
        )
    folder = Path(str(caught.value).rpartition(" is in ")[2])
    assert len(gqabench.load(folder)) == 1
    assert not (folder / "report.html").exists()
    assert RunFolder(folder).header().status == "partial"
    assert process_state() == before


def test_a_mistake_is_an_exception_and_leaves_nothing(tmp_path: Path) -> None:
    before = process_state()
    with pytest.raises(gqabench.UsageError, match=r"batchsize: unknown key \(did you mean batch_size\?\)"):
        gqabench.measure(batchsize=8, results_dir=tmp_path, progress=False)
    assert process_state() == before
    assert list(tmp_path.iterdir()) == []


# Progress


def stand_in_for_ipython(monkeypatch: pytest.MonkeyPatch, kernel: object) -> list[str]:
    """As far as a display asks for it; returns the lines that it was given, as they come."""
    lines: list[str] = []

    class Handle:
        def update(self, line: object) -> None:
            lines.append(repr(line))

    def display(line: object, display_id: bool) -> Handle:
        assert display_id
        lines.append(repr(line))
        return Handle()

    ipython, ipython_display = ModuleType("IPython"), ModuleType("IPython.display")
    shell = type("Shell", (), {"kernel": kernel})()
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    ipython_display.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython_display)
    return lines


def test_a_notebook_has_one_line_that_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = stand_in_for_ipython(monkeypatch, kernel=object())
    display = make_display()
    assert isinstance(display, NotebookDisplay)
    display.start(1, 2)
    display.stop()
    assert lines == ["starting workers", "0/2 records: no records"]


def test_outside_a_notebook_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_ipython(monkeypatch, kernel=None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(make_display(), LogDisplay)


# Planning


def test_a_plan_has_the_numbers_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    plan = gqabench.plan(model=["llama3_8b", "mistral_7b"], memory="80GB", reserved=16e9, window=[None, 4096])
    keys = ["model=llama3_8b,mistral_7b", "window=null,4096"]
    assert main(["plan", "--memory", "80GB", "--reserved", "16GB", *keys]) == 0
    printed = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()]
    printed = [line for line in printed if line[:1] and line[0].isdigit() and not line[0].endswith("GB")]
    columns = ["kv_cache_bytes_per_token", "num_tokens", "num_sequences"]
    numbers = [[int(text) for text in line if text.isdigit()] for line in printed]
    assert [[row[0], *row[2:5]] for row in numbers] == plan[["num_kv_heads", *columns]].to_numpy().tolist()
    assert plan["budget_bytes"].unique().tolist() == [64 * 10**9]
    assert plan[plan["is_asked"]]["num_kv_heads"].unique().tolist() == [8]


def test_a_plan_without_such_a_model_says_why() -> None:
    plan = gqabench.plan(model="llama3_8b", memory="80GB", num_kv_heads=[8, 5]).set_index("num_kv_heads")
    assert plan.loc[8, "kind"] == "GQA" and plan.loc[8, "reason"] is None
    assert plan.loc[5, "num_tokens"] is pd.NA and plan.loc[5, "kind"] is None
    assert str(plan.loc[5, "reason"]).startswith("num_kv_heads=5: must divide num_q_heads=32")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"memory": "80G"}, "memory=80G: must be a size such as"),
        ({"memory": "1GB", "reserved": "2GB"}, "reserved=2GB: must be less than memory=1GB"),
        ({"memory": 1e9, "model": "llama"}, "model=llama: unknown; valid: falcon_7b"),
        ({"memory": 1e9, "kvlen": 5}, r"kvlen: unknown key \(did you mean kv_len\?\)"),
    ],
)
def test_a_mistake_in_a_plan_is_said(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(gqabench.UsageError, match=complaint):
        gqabench.plan(**keys)


# Figures and reports


def test_a_figure_by_its_name(frame: pd.DataFrame) -> None:
    settings, columns = dict(mpl.rcParams), list(frame.columns)
    figure = gqabench.figure("latency", frame)
    assert figure.axes
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert (dict(mpl.rcParams), list(frame.columns), plt.get_fignums()) == (settings, columns, [])


def test_a_figure_of_one_stage_of_several(frame: pd.DataFrame) -> None:
    both = pd.concat([frame, frame.assign(workload="train", phase="prefill")])
    with pytest.raises(ValueError, match="figure latency: shows one stage; name it: stage=decode or train"):
        gqabench.figure("latency", both)
    assert gqabench.figure("latency", both, stage="decode").axes


@pytest.mark.parametrize(
    ("name", "stage", "complaint"),
    [
        ("rank", None, "name='rank': no such figure; valid: kv_cache, "),
        ("latency", "prefill", "stage='prefill': not in the frame; valid: decode"),
        ("models", None, "figure models: only one model was planned"),
    ],
)
def test_a_figure_that_cannot_be_drawn_says_why(
    frame: pd.DataFrame, name: str, stage: str | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        gqabench.figure(name, frame, stage=stage)
    with pytest.raises(ValueError, match="the frame has no records"):
        gqabench.figure("latency", frame[:0])


@pytest.mark.usefixtures("without_figures")
def test_a_report_of_a_frame_describes_its_run(frame: pd.DataFrame, tmp_path: Path) -> None:
    page = gqabench.report(frame[frame["impl"] == "sdpa"], tmp_path / "of_frame")
    assert page == tmp_path / "of_frame" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert str(frame["run_id"].iloc[0]) in text and "gqabench sweep -m" in text


@pytest.mark.usefixtures("without_figures")
def test_a_report_of_paths(frame: pd.DataFrame, tmp_path: Path) -> None:
    assert gqabench.report([frame.attrs["run"]], tmp_path) == tmp_path / "report.html"
    with pytest.raises(ValueError, match="no_run: no such run"):
        gqabench.report("no_run", tmp_path)
    with pytest.raises(ValueError, match=r"runs=\[\]: needs"):
        gqabench.report([])
