"""Which subject a workload has."""

from __future__ import annotations

from typing import Any

from gqabench.attention_impls import AttentionProblem
from gqabench.attention_impls.models.llama.shape import LlamaShape
from gqabench.harness.cases.case import LAYER_WORKLOAD, TRAIN_WORKLOAD
from gqabench.harness.worker.subjects.subject import (
    AttentionSubject,
    LayerSubject,
    Subject,
    select_query_rows,
)
from gqabench.harness.worker.subjects.train import TrainSubject


def make_subject(
    problem: AttentionProblem, workload: str, hidden_size: int, seed: int, max_check_gflop: float
) -> Subject:
    """Make the inputs and answers of a problem; references that would cost more than allowed are sampled."""
    if workload == LAYER_WORKLOAD:
        return LayerSubject(problem, hidden_size, seed)
    if workload == TRAIN_WORKLOAD:
        return TrainSubject(problem, seed, max_check_gflop)
    return AttentionSubject(problem, seed, select_query_rows(problem, seed, max_check_gflop))


def make_generate_subject(problem: AttentionProblem, llama: dict[str, Any], seed: int) -> Subject:
    """Make a model. Raises `UnsupportedProblem` without its library, which is loaded only here."""
    from gqabench.harness.worker.subjects.generate import GenerateSubject

    return GenerateSubject(problem, LlamaShape(**llama), seed)
