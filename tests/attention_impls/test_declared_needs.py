"""The devices and extras that an implementation declares are those that it really needs."""

from dataclasses import replace

import pytest

from gqabench.attention_impls import AttentionProblem, get_impl
from gqabench.attention_impls.abilities import device_reasons
from gqabench.attention_impls.parts.calls import cuda_peer, packages
from gqabench.attention_impls.registry import BUILT_IN_IMPLS

DECODE = AttentionProblem(
    batch_size=1,
    q_len=1,
    kv_len=64,
    num_q_heads=8,
    num_kv_heads=8,
    head_dim=64,
    dtype="float32",
    device="cpu",
)
PROBLEMS = [
    replace(DECODE, q_len=q_len, dtype=dtype, window=window)
    for q_len in (1, 64)
    for dtype in ("float32", "bfloat16")
    for window in (None, 16)
]


def is_refused_for_its_device(name: str, problem: AttentionProblem) -> bool:
    """Whether an implementation says that it has no code for the device, GPU or not."""
    reasons = [
        reason
        for reason in get_impl(name).unsupported_reasons(problem)
        if reason not in device_reasons(problem)
    ]
    return any(reason.startswith("device=") or "no such kernel for the CPU" in reason for reason in reasons)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", BUILT_IN_IMPLS)
def test_it_declares_the_devices_that_it_has_code_for(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    refused = [is_refused_for_its_device(name, replace(problem, device=device)) for problem in PROBLEMS]
    assert all(refused) == (device not in get_impl(name).devices)


@pytest.mark.parametrize("name", BUILT_IN_IMPLS)
def test_without_its_extra_it_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packages, cuda_peer):
        monkeypatch.setattr(module, "is_installed", lambda _: False, raising=False)
    impl = get_impl(name)
    advice = [reason for reason in impl.unsupported_reasons(DECODE) if "pip install" in reason]
    wanted = [packages.REQUIREMENTS[extra].split()[0].partition(">")[0] for extra in impl.extras]
    assert bool(advice) == bool(wanted)
    assert all(any(package in reason for package in wanted) for reason in advice)
