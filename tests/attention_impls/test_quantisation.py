"""Quantised keys and values: by hand, within half a step, and never NaN."""

import pytest
import torch

from gqabench.attention_impls.parts.caches.quantisation import quantise
from gqabench.attention_impls.problem import KV_DTYPE_ITEMSIZES

KV_DTYPES = list(KV_DTYPE_ITEMSIZES)
VALUE_DTYPES = {"int8": torch.int8, "float8_e4m3": torch.float8_e4m3fn}
LARGEST = {"int8": 127, "float8_e4m3": 448}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_int8_by_hand():
    """A largest element of 254 makes steps of 2: ties go to the even level."""
    quantised = quantise(torch.tensor([254.0, -254.0, 1.0, 3.0, 5.0, -1.0, 4.2]), "int8")
    assert quantised.scales.item() == 2
    assert quantised.values.tolist() == [127, -127, 0, 2, 2, 0, 2]
    assert quantised.dequantise(torch.float32).tolist() == [254, -254, 0, 4, 4, 0, 4]


def test_float8_by_hand():
    """Three bits of mantissa: 17 lies between 16 and 18 and goes to the even 16, 19 to 20."""
    quantised = quantise(torch.tensor([448.0, 17.0, 19.0, -17.5, 2**-9, 2**-11]), "float8_e4m3")
    assert quantised.scales.item() == 1
    assert quantised.dequantise(torch.float32).tolist() == [448, 16, 20, -18, 2**-9, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_types_shapes_and_bytes(kv_dtype, dtype):
    quantised = quantise(normals(2, 3, 5, 16).to(dtype), kv_dtype)
    assert quantised.values.dtype == VALUE_DTYPES[kv_dtype]
    assert quantised.values.shape == (2, 3, 5, 16)
    assert quantised.scales.dtype == torch.float32
    assert quantised.scales.shape == (2, 3, 5)
    assert quantised.nbytes == 2 * 3 * 5 * (16 + 4)
    assert quantised.dequantise(dtype).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e3])
def test_int8_is_off_by_half_a_step_at_most(dtype, magnitude):
    x = (normals(4, 100, 64) * magnitude).to(dtype)
    quantised = quantise(x, "int8")
    half_steps = x.double().abs().amax(-1, keepdim=True) / 127 / 2
    errors = (quantised.dequantise(torch.float64) - x.double()).abs()
    assert bool((errors <= half_steps * (1 + 1e-4)).all())
    assert float((errors / half_steps).max()) > 0.99  # and no finer than it says


@pytest.mark.parametrize("dtype", DTYPES)
def test_float8_is_off_by_a_sixteenth_at_most(dtype):
    """Half a unit of three bits of mantissa; below its smallest normal number, `2^-6`, half of `2^-9`."""
    x = normals(4, 100, 64).to(dtype)
    quantised = quantise(x, "float8_e4m3")
    allowed = torch.maximum(x.double().abs() / 16, quantised.scales.double()[..., None] * 2**-10)
    errors = (quantised.dequantise(torch.float64) - x.double()).abs()
    assert bool((errors <= allowed * (1 + 1e-4)).all())
    assert float((errors / allowed).max()) > 0.9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_the_largest_element_uses_the_whole_range(kv_dtype, dtype):
    quantised = quantise(normals(8, 33).to(dtype), kv_dtype)
    assert quantised.values.float().abs().amax(-1).tolist() == [LARGEST[kv_dtype]] * 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_token_of_zeros_has_scale_one(kv_dtype, dtype):
    x = normals(3, 4, 8).to(dtype)
    x[1, 2] = 0
    quantised = quantise(x, kv_dtype)
    assert quantised.scales[1, 2] == 1
    assert quantised.dequantise(dtype)[1, 2].tolist() == [0] * 8
    assert bool((quantised.scales > 0).all())


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([3e38, -1.0]),
        torch.tensor([65504.0, -65504.0, 6e-8], dtype=torch.float16),
        torch.tensor([torch.finfo(torch.bfloat16).max, 1.0], dtype=torch.bfloat16),
        torch.tensor([1e-38, -3e-39]),
        torch.tensor([1e-44, -1e-45, 0.0]),
    ],
    ids=[
        "near the largest float32",
        "largest float16",
        "largest bfloat16",
        "subnormal",
        "smallest subnormal",
    ],
)
def test_extremes_are_never_nan(x, kv_dtype):
    quantised = quantise(x, kv_dtype)
    assert bool(quantised.values.float().isfinite().all())
    assert bool(quantised.dequantise(x.dtype).isfinite().all())
    assert bool((quantised.scales > 0).all())


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_strides_do_not_matter(kv_dtype):
    x = normals(2, 6, 3, 10)
    transposed = x.transpose(1, 2)[:, :, ::2, 1:]
    assert not transposed.is_contiguous()
    before = x.clone()
    strided, packed = quantise(transposed, kv_dtype), quantise(transposed.contiguous(), kv_dtype)
    assert torch.equal(strided.values.float(), packed.values.float())
    assert torch.equal(strided.scales, packed.scales)
    assert torch.equal(x, before)  # float32 inputs are not worked on in place


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_part_is_quantised_as_the_whole_is(kv_dtype):
    x = normals(2, 3, 20, 16).to(torch.bfloat16)
    whole, part = quantise(x, kv_dtype), quantise(x[:, 1:, 5:9], kv_dtype)
    assert torch.equal(whole.values[:, 1:, 5:9].float(), part.values.float())
    assert torch.equal(whole.scales[:, 1:, 5:9], part.scales)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_quantising_again_changes_nothing(kv_dtype):
    once = quantise(normals(5, 64), kv_dtype).dequantise(torch.float32)
    twice = quantise(once, kv_dtype).dequantise(torch.float32)
    torch.testing.assert_close(twice, once, rtol=1e-6, atol=0)
