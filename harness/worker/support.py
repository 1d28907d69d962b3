"""Why an implementation cannot compute some problems: asked in a worker, which code from outside may end."""

from __future__ import annotations

from typing import Any

from gqabench.attention_impls import AttentionProblem, get_impl
from gqabench.attention_impls.plugins.promises import stated_reasons
from gqabench.harness.workers.replies import Support


def explain_support(impl: str, problems: list[dict[str, Any]]) -> Support:
    """Ask an implementation about problems, each given as the fields of an `AttentionProblem`."""
    implementation = get_impl(impl)
    return Support(
        reasons=[stated_reasons(implementation, AttentionProblem(**problem)) for problem in problems]
    )
