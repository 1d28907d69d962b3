"""The attributes of the calling module that Hugging Face's attention functions read."""

from __future__ import annotations

import torch

from gqabench.attention_impls.problem import AttentionProblem


class AttentionModule(torch.nn.Module):
    """Stands in for an attention layer of a model in `eval` mode."""

    def __init__(self, problem: AttentionProblem) -> None:
        super().__init__()
        self.num_key_value_groups = problem.group_size
        self.is_causal = problem.causal or problem.window is not None
        self.eval()
