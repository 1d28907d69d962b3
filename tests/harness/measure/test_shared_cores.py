"""An arm that leaves something busy behind is named in the rows of those that shared the cores with it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gqabench import results
from gqabench.results.record import Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell threads")

MODULE = """
    import hashlib, threading
    from gqabench.attention_impls import PreparedAttention, get_impl

    class WakesAThread:
        name = "wakes_a_thread"
        def unsupported_reasons(self, problem):
            return []
        def prepare(self, problem, inputs):
            self.inner = get_impl("grouped_matmul").prepare(problem, inputs)
            self.num_calls, self.is_told = 0, threading.Event()
            threading.Thread(target=self.work, daemon=True).start()
            return PreparedAttention(self.run, self.inner.kv_cache_bytes)
        def run(self):
            self.num_calls += 1
            if self.num_calls == 5:  # when it is timed
                self.is_told.set()
            return self.inner()
        def work(self):
            self.is_told.wait()
            while True:
                hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)  # without the GIL
"""


def test_a_thread_that_goes_on_is_named(gqabench: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(textwrap.dedent(MODULE))
    culprit = "kernels.py:WakesAThread"
    finished = gqabench(
        "sweep", "measure=smoke", "model=gqa_8_2", "kv_len=96", f"impls=[grouped_matmul,{culprit}]"
    )
    assert finished.returncode == 0, finished.stderr
    rows = results.load(tmp_path / "results/runs/latest").set_index("impl")
    assert (rows.outcome == Outcome.OK).all()
    victim, other = rows.loc["grouped_matmul"], rows.loc[culprit]
    assert "shared_cores" in victim["flags"]
    assert list(victim.shared_cores_with) == [culprit]
    assert "shared_cores" not in other["flags"], "its own threads are its own affair"
