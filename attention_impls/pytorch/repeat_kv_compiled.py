"""The textbook formula with expanded K and V, compiled by `torch.compile`."""

from __future__ import annotations

from gqabench.attention_impls.abilities import device_reasons, plain_cache_reasons
from gqabench.attention_impls.contract import AttentionInputs, Copying, PreparedAttention, TimedCall
from gqabench.attention_impls.parts.calls.compiled_call import compile_call, compiler_reasons
from gqabench.attention_impls.plain.repeat_kv import RepeatKv
from gqabench.attention_impls.problem import AttentionProblem


class RepeatKvCompiled(RepeatKv):
    """`repeat_kv` as the compiler makes it: it shows whether the expansion is still copied."""

    name = "repeat_kv_compiled"
    compiles_each_problem = True
    has_backward = False
    timed_call = TimedCall(kv_expansion=Copying.UNKNOWN)

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        return [
            *device_reasons(problem),
            *plain_cache_reasons(problem),
            *compiler_reasons(problem),
        ]

    def prepare(self, problem: AttentionProblem, inputs: AttentionInputs) -> PreparedAttention:
        plain = super().prepare(problem, inputs)
        run, compile_ms = compile_call(plain.run)
        return PreparedAttention(run, plain.kv_cache_bytes, compile_ms=compile_ms)
