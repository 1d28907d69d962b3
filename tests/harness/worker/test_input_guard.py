from __future__ import annotations

import pytest
import torch

from gqabench.harness.worker.subjects.input_guard import InputGuard, checksum


def made(seed: int = 0) -> torch.Tensor:
    return torch.randn((2, 4, 333, 24), generator=torch.Generator().manual_seed(seed))


def swap_two_tokens(tensor: torch.Tensor) -> None:
    tensor[0, 0, [3, 4]] = tensor[0, 0, [4, 3]]


def swap_two_elements(tensor: torch.Tensor) -> None:
    tensor[1, 3, 332, [22, 23]] = tensor[1, 3, 32, [23, 22]]


def move_all_by_a_row(tensor: torch.Tensor) -> None:
    tensor.copy_(tensor.view(-1).roll(8192).view(tensor.shape))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor[0, 0, 0, :1].mul_(1.0000002),
        lambda tensor: tensor[1, 3, 332, -1:].neg_(),
        lambda tensor: tensor.copy_(tensor.flip(1)),
        lambda tensor: tensor.copy_(tensor.flip(2)),
        lambda tensor: tensor.copy_(tensor.flip(3)),
        lambda tensor: tensor.copy_(tensor.transpose(1, 2).contiguous().view(tensor.shape)),
        swap_two_tokens,
        swap_two_elements,
        move_all_by_a_row,
    ],
)
def test_every_change_is_found_and_undone(change: object) -> None:
    tensors = [made(0), made(1)]
    guard = InputGuard(tensors, lambda: [made(0), made(1)])
    assert not guard.restore_if_changed()
    change(tensors[1])  # type: ignore[operator]
    assert guard.restore_if_changed()
    assert torch.equal(tensors[1], made(1))
    assert not guard.restore_if_changed()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("num_elements", [0, 1, 3, 512, 5000, 8192, 32768, 100_001])
def test_it_is_of_the_bytes_alone(dtype: torch.dtype, num_elements: int) -> None:
    tensor = (torch.arange(num_elements) % 100).to(dtype)
    assert checksum(tensor) == checksum(tensor.clone())
    if num_elements > 1:
        assert checksum(tensor) != checksum(tensor.flip(0))
