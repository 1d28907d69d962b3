"""Why an implementation cannot compute some problems: asked in a worker, which code from outside may end."""

from __future__ import annotations

from typing import Any

from gqabench.attention_impls import AttentionProblem, get_impl
from gqabench.attention_impls.plugins.promises import stated_reasons


def explain_support(impl: str, problems: list[dict[str, Any]]) -> dict[str, Any]:
    """For each problem the reasons why not; empty means that the implementation can compute it here."""
    implementation = get_impl(impl)
    return {"reasons": [stated_reasons(implementation, AttentionProblem(**problem)) for problem in problems]}
