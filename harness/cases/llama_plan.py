"""The model that `workload=generate` builds, from the keys of a configuration. Imports no torch."""

from __future__ import annotations

from typing import Any

from gqabench.attention_impls import AttentionProblem, InvalidCombination
from gqabench.attention_impls.models.llama.shape import HF_CACHES, LlamaShape, default_intermediate_size
from gqabench.harness.cases.case import GENERATE_WORKLOAD
from gqabench.harness.errors import UsageError

_ONLY_HERE = ("model_layers", "hf_cache")
_NOT_IN_A_LLAMA = {
    "window": "a Llama has no sliding window",
    "logits_soft_cap": "a Llama has no soft cap",
    "kv_dtype": "Hugging Face's dynamic and static caches are not quantised",
    "page_size": "Hugging Face's dynamic and static caches have no pages",
}


def require_llama_values(values: dict[str, Any]) -> None:
    """Raise `UsageError` for a value that no model can have."""
    if values["hf_cache"] not in (None, *HF_CACHES):
        raise UsageError(f"hf_cache={values['hf_cache']}: must be {' or '.join(HF_CACHES)}")
    if values["workload"] != GENERATE_WORKLOAD:
        return
    if values["hf_cache"] is None:
        raise UsageError(f"hf_cache=null: workload=generate needs {' or '.join(HF_CACHES)}")
    if values["model_layers"] is None and values["num_layers"] is None:
        raise UsageError("model_layers=null: means all layers, but num_layers=null does not say how many")


def plan_llama(values: dict[str, Any], problem: AttentionProblem) -> LlamaShape | None:
    """Return the model around a problem's heads; None for other workloads.

    Raises `InvalidCombination`.
    """
    if values["workload"] != GENERATE_WORKLOAD:
        for key in _ONLY_HERE:
            if values[key] is not None:
                raise InvalidCombination(f"{key}={values[key]}: only workload=generate builds a model")
        return None
    _require_decode_step(values, problem)
    hidden_size = problem.num_q_heads * problem.head_dim
    return LlamaShape(
        num_layers=values["model_layers"] or values["num_layers"],
        hidden_size=hidden_size,
        intermediate_size=values["intermediate_size"] or default_intermediate_size(hidden_size),
        hf_cache=values["hf_cache"],
    )


def _require_decode_step(values: dict[str, Any], problem: AttentionProblem) -> None:
    if problem.q_len != 1:
        raise InvalidCombination(f"q_len={problem.q_len}: must be 1; workload=generate decodes one token")
    if problem.kv_len < 2:
        raise InvalidCombination(
            f"kv_len={problem.kv_len}: must be 2 or more; workload=generate prefills kv_len - 1 tokens"
        )
    if problem.head_dim % 2:
        raise InvalidCombination(f"head_dim={problem.head_dim}: must be even for RoPE")
    if values["tp"] != 1:
        raise InvalidCombination(f"tp={values['tp']}: must be 1; workload=generate builds a whole model")
    for key, why in _NOT_IN_A_LLAMA.items():
        if values[key] is not None:
            raise InvalidCombination(f"{key}={values[key]}: must be null for workload=generate: {why}")
    layers, of = values["model_layers"], values["num_layers"]
    if layers is not None and of is not None and layers > of:
        raise InvalidCombination(f"model_layers={layers}: must be at most num_layers={of}")
