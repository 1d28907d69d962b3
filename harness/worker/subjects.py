"""Which subject a workload has."""

from __future__ import annotations

from typing import Any

from attention_impls import AttentionProblem
from attention_impls.llama.shape import LlamaShape
from harness.case import LAYER_WORKLOAD, TRAIN_WORKLOAD
from harness.worker.subject import AttentionSubject, LayerSubject, Subject, select_query_rows
from harness.worker.train_subject import TrainSubject


def make_subject(
    problem: AttentionProblem, workload: str, hidden_size: int, seed: int, max_check_gflop: float
) -> Subject:
    """Inputs and answers of a problem; references that would cost more than allowed are sampled."""
    if workload == LAYER_WORKLOAD:
        return LayerSubject(problem, hidden_size, seed)
    if workload == TRAIN_WORKLOAD:
        return TrainSubject(problem, seed, max_check_gflop)
    return AttentionSubject(problem, seed, select_query_rows(problem, seed, max_check_gflop))


def make_generate_subject(problem: AttentionProblem, llama: dict[str, Any], seed: int) -> Subject:
    """A model. Its library is loaded only here; raises `UnsupportedProblem` without it."""
    from harness.worker.generate_subject import GenerateSubject

    return GenerateSubject(problem, LlamaShape(**llama), seed)
