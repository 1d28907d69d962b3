"""What is known about one arm, reply by reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gqabench.attention_impls.cost import kv_input_bytes
from gqabench.harness.cases.case import TRAIN_WORKLOAD, Case
from gqabench.harness.workers.replies import ArmPrepared, CallMemory, RecordFields
from gqabench.results.flags import FLAG_WORKSPACE_UNSEEN, cache_flags

_ERRORS = ("max_error", "error_ratio")


@dataclass
class ArmFacts:
    """What has been learnt of one arm so far."""

    fields: dict[str, Any] = field(default_factory=dict)
    """As fields of a record"""
    flags: list[str] = field(default_factory=list)
    """Doubts about its memory"""

    def add(self, reply: RecordFields) -> None:
        """Add what the worker answered."""
        self.add_fields(reply.to_dict())

    def add_fields(self, fields: Mapping[str, Any]) -> None:
        """Add fields of a record: of errors the largest is kept, of all else the latest."""
        for key, value in fields.items():
            known = self.fields.get(key)
            is_smaller = key in _ERRORS and known is not None and (value is None or value < known)
            if not is_smaller:
                self.fields[key] = value

    def add_prepared(self, case: Case, prepared: ArmPrepared) -> None:
        """Add what preparing took, and whether the cache that it keeps is the one that it states."""
        self.add(prepared)
        self.flags += cache_flags(
            kv_cache_bytes=prepared.kv_cache_bytes,
            prepared_bytes=prepared.prepared_bytes,
            given_bytes=kv_input_bytes(case.problem),
            other_bytes=preparation_bytes(case),
            unseen_bytes=prepared.prepared_unseen_bytes,
        )

    def add_memory(self, memory: CallMemory) -> None:
        """Add the memory of a call, and whether PyTorch's allocator saw all of it."""
        self.add(memory)
        if memory.unseen_workspace_bytes:
            self.flags.append(FLAG_WORKSPACE_UNSEEN)


def preparation_bytes(case: Case) -> int | None:
    """Return the most that `prepare` may well keep besides a cache; None where it keeps a layer or a model.

    A mask of float32 and one of bytes; queries and outputs in a layout of its own; half of the cache for
    tables and scales; what libraries plan in (FlashInfer asks for 128 MiB on a GPU).
    """
    problem = case.problem
    if case.workload not in {"decode", "prefill", "extend", TRAIN_WORKLOAD}:
        return None
    masks = 5 * problem.batch_size * problem.q_len * problem.kv_len
    queries = (
        2 * problem.batch_size * problem.num_q_heads * problem.q_len * problem.head_dim * problem.itemsize
    )
    plans = 2**20 if problem.device_type == "cpu" else 160 * 2**20
    return masks + queries + kv_input_bytes(problem) // 2 + plans
