"""Implementations inside a small random-weight Llama, against its stock `eager` attention."""

from functools import lru_cache

import pytest
import torch

from gqabench.attention_impls import AttentionProblem, UnknownImpl, get_impl, list_impls
from gqabench.attention_impls import huggingface as hf
from gqabench.attention_impls.huggingface.mask import InexpressibleMask, visible_part

transformers = pytest.importorskip("transformers")

NUM_TOKENS = 9
PADDINGS = {
    "none": ((1,) * 9, (1,) * 9),
    "left": ((0, 0, 0, *(1,) * 6), (1,) * 9),
    "right": ((*(1,) * 6, 0, 0, 0), (1,) * 9),
}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}


def runs_here(name: str, q_len: int) -> bool:
    problem = AttentionProblem(
        batch_size=2, q_len=q_len, kv_len=9, num_q_heads=4, num_kv_heads=2, head_dim=64, dtype="float32",
        device="cpu", kv_lens=(9, 6), causal=True,
    )  # fmt: skip
    return not get_impl(name).unsupported_reasons(problem)


@lru_cache
def model(kind: str = "llama", **fields: int) -> torch.nn.Module:
    torch.manual_seed(0)
    config_class = {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig}[kind]
    config = config_class(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, max_position_embeddings=64,
        **HEADS, **{"attn_implementation": "eager"} | fields,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module", autouse=True)
def _registered():
    hf.register()


@torch.no_grad()
def steps(chosen, implementation, padding, cache=None, first=None):
    """Logits of real tokens: of a prefill, and of two cached steps after it."""
    chosen.set_attn_implementation(first or implementation)
    mask = torch.tensor(PADDINGS[padding])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ids = torch.arange(2 * (NUM_TOKENS + 2)).view(2, -1) * 7 % 97
    output = chosen(
        ids[:, :NUM_TOKENS],
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    logits, lengths = [output.logits[mask.bool()]], mask.sum(-1, keepdim=True)
    chosen.set_attn_implementation(implementation)
    for step in range(2):
        mask = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], dim=-1)
        token = ids[:, NUM_TOKENS + step : NUM_TOKENS + step + 1]
        output = chosen(
            token, attention_mask=mask, position_ids=lengths + step, past_key_values=output.past_key_values,
            use_cache=True,
        )  # fmt: skip
        logits.append(output.logits[:, 0])
    return torch.cat(logits)


ALL = [name for name in list_impls() if runs_here(name, NUM_TOKENS) or runs_here(name, 1)]


def paddings_of(name: str) -> list[str]:
    return ["left"] if get_impl(name).compiles_each_problem else list(PADDINGS)


@pytest.mark.parametrize(
    ("name", "padding"), [(name, padding) for name in ALL for padding in paddings_of(name)]
)
def test_logits_are_those_of_eager(name, padding):
    expected = steps(model(), "eager", padding)
    first = None if runs_here(name, NUM_TOKENS) else "eager"
    last = f"{hf.PREFIX}{name}" if runs_here(name, 1) else "eager"
    first = first or f"{hf.PREFIX}{name}"
    torch.testing.assert_close(steps(model(), last, padding, first=first), expected, rtol=1e-4, atol=1e-5)


WITHOUT_COMPILING = [
    name for name in ALL if not get_impl(name).compiles_each_problem and runs_here(name, NUM_TOKENS)
]


@pytest.mark.parametrize("name", WITHOUT_COMPILING)
@pytest.mark.parametrize("kind", ["llama", "mistral"])
@torch.no_grad()
def test_logits_without_a_cache_are_those_of_eager(name, kind):
    """Then keys and values come with the tokens before the heads."""
    fields = {"sliding_window": 4} if kind == "mistral" else {}
    chosen = model(kind, **fields)
    ids = torch.arange(2 * NUM_TOKENS).view(2, -1) * 7 % 97
    mask = torch.tensor(PADDINGS["left"])
    logits = []
    for implementation in ("eager", f"{hf.PREFIX}{name}"):
        chosen.set_attn_implementation(implementation)
        logits.append(chosen(ids, attention_mask=mask, use_cache=False).logits[mask.bool()])
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "cpu_decode"])
@torch.no_grad()
def test_a_static_cache_of_a_window_gives_the_logits_of_eager(name):
    """A prompt longer than the window is handed through as it was projected."""
    if get_impl(name).unsupported_reasons(AttentionProblem(1, 1, 9, 4, 2, 16, "float32", "cpu")):
        pytest.skip(f"{name} does not run here")
    chosen = model("mistral", sliding_window=4)
    ids = torch.arange(2 * NUM_TOKENS).view(2, -1) * 7 % 97
    logits = []
    for implementation in ("eager", f"{hf.PREFIX}{name}"):
        chosen.set_attn_implementation(implementation)
        cache = transformers.StaticCache(config=chosen.config, max_cache_len=NUM_TOKENS + 4)
        logits.append(chosen(ids, past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_mask_that_is_written_into_counts_anew():
    chosen = model()
    ids = torch.arange(NUM_TOKENS)[None] * 7 % 97
    mask = torch.ones(1, 1, NUM_TOKENS, NUM_TOKENS, dtype=torch.bool).tril()
    logits = {}
    for implementation in ("sdpa", f"{hf.PREFIX}grouped_matmul"):
        chosen.set_attn_implementation(implementation)
        mask.copy_(torch.ones_like(mask).tril())
        before = chosen(ids, attention_mask=mask, use_cache=False).logits
        mask.copy_(torch.ones_like(mask).tril().triu(-2))
        logits[implementation] = chosen(ids, attention_mask=mask, use_cache=False).logits
        assert not torch.allclose(before, logits[implementation], atol=1e-3)
    torch.testing.assert_close(*logits.values(), rtol=1e-4, atol=1e-5)


def test_three_names_make_no_pair():
    with pytest.raises(UnknownImpl, match="at most two"):
        hf.register("sdpa+folded_sdpa+sdpa")


@pytest.mark.parametrize("name", ["grouped_matmul", "sdpa", "sdpa_flash", "transformers_sdpa"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_greedy_generation_gives_the_same_tokens(name, cache, padding):
    ids = torch.arange(2 * NUM_TOKENS).view(2, -1) * 11 % 97
    arguments = {
        "attention_mask": torch.tensor(PADDINGS[padding]), "max_new_tokens": 6, "do_sample": False,
        "cache_implementation": cache, "pad_token_id": 0,
    }  # fmt: skip
    model().set_attn_implementation("eager")
    expected = model().generate(ids, **arguments)
    model().set_attn_implementation(hf.PREFIX + name)
    assert torch.equal(model().generate(ids, **arguments), expected)


def test_decode_and_prefill_may_be_two_implementations():
    (name,) = hf.register("sdpa+folded_sdpa")
    assert name == "gqabench:sdpa+folded_sdpa"
    expected = steps(model(), "eager", "left")
    torch.testing.assert_close(steps(model(), name, "left"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["grouped_matmul", "sdpa", "blockwise"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_a_model_with_a_sliding_window(name, padding):
    windowed = model("mistral", sliding_window=4)
    expected = steps(windowed, "eager", padding)
    torch.testing.assert_close(steps(windowed, hf.PREFIX + name, padding), expected, rtol=1e-4, atol=1e-5)


def test_what_an_implementation_cannot_do_is_an_error():
    with pytest.raises(hf.Unsupported, match=r"gqabench:folded_sdpa: .*q_len=9"):
        steps(model(), "gqabench:folded_sdpa", "none")
    with pytest.raises(ValueError, match="unknown"):
        hf.register("spda")


def test_a_call_that_needs_gradients_is_an_error_without_a_backward_pass():
    model().set_attn_implementation("gqabench:onnxruntime_gqa")
    with pytest.raises(hf.Unsupported, match="no backward pass"):
        model()(torch.ones(1, 3, dtype=torch.long))


def test_a_mask_by_hand():
    """Key 3 is empty room. Sequence 0 has one token, on the left of two that are padding."""
    rows = [[[0, 0, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [1, 1, 1, 0]]]
    part = visible_part(torch.tensor(rows, dtype=torch.bool)[:, None])
    assert part.keys == slice(0, 3)
    assert part.rows == slice(0, 2)
    assert part.mask_fields == {
        "q_len": 2, "kv_len": 3, "kv_lens": (1, 3), "causal": True, "window": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "rows", [[[1, 0, 1], [0, 1, 1]], [[1, 1, 0], [1, 0, 1]], [[0, 0, 0], [0, 0, 0]], [[1, 1, 0], [0, 0, 1]]]
)
def test_a_mask_that_no_problem_has_is_an_error(rows):
    with pytest.raises(InexpressibleMask, match="attention_mask"):
        visible_part(torch.tensor(rows, dtype=torch.bool)[None, None])
