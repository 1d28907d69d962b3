"""Stand-ins for peers that are more than one function: cuDNN's graphs, xFormers' biases, JAX's arrays.

Names, order and defaults of the parameters are those of nvidia-cudnn-frontend 1.26.0, xformers 0.0.35 and
jax 0.11.2. What is computed is computed on the CPU, by PyTorch.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from tests.attention_impls.peer_stand_ins import dense, paged


class CudnnTensor:
    """A node of the graph; of the output's the caller says shape and strides."""

    def __init__(self, shape=()):
        self.shape = tuple(shape)

    def set_output(self, is_output):
        return self

    def set_dim(self, dim):
        return self

    def set_stride(self, stride):
        return self


class CudnnGraph:
    """`cudnn.pygraph` with one `sdpa` node; `execute` computes it on the handle's stream."""

    def __init__(
        self, name="test_graph", io_data_type=None, intermediate_data_type=None, compute_data_type=None,
        handle=None, sm_count=None, sm_version=None,
    ):  # fmt: skip
        assert None not in (io_data_type, intermediate_data_type, compute_data_type, handle)

    def tensor_like(self, tensor):
        return CudnnTensor(tensor.shape)

    def sdpa(
        self, q, k, v, is_inference=None, attn_scale=None, bias=None, block_mask=None, use_alibi_mask=False,
        use_padding_mask=False, seq_len_q=None, seq_len_kv=None, use_causal_mask=False,
        use_causal_mask_bottom_right=False, sliding_window_length=None, diagonal_alignment="TOP_LEFT",
        diagonal_band_left_bound=None, diagonal_band_right_bound=None, dropout=None, rng_dump=None,
        paged_attention_k_table=None, paged_attention_v_table=None, paged_attention_max_seq_len_kv=None,
        compute_data_type=None, name="", score_mod=None, generate_stats=None,
    ):  # fmt: skip
        assert use_padding_mask and generate_stats is False
        assert seq_len_q.shape == seq_len_kv.shape == (q.shape[0], 1, 1, 1)
        assert paged_attention_k_table.shape[1::2] == (1, 1)
        banded = (diagonal_band_left_bound, diagonal_band_right_bound) != (None, None)
        assert (diagonal_alignment == "BOTTOM_RIGHT") == banded
        self.nodes = (q, k, v, seq_len_kv, paged_attention_k_table, paged_attention_v_table)
        left = -1 if diagonal_band_left_bound is None else diagonal_band_left_bound - 1
        self.options = (attn_scale, diagonal_band_right_bound == 0, left, None)
        self.output = CudnnTensor()
        return [self.output, None]

    validate = build_operation_graph = check_support = build_plans = lambda self: None

    def create_execution_plans(self, modes):
        assert modes == ["A"]

    def get_workspace_size(self):
        return 0

    def execute(self, tensor_to_device_buffer, workspace, handle=None):
        assert handle.pop("stream") == "current", "a call runs where its caller's stream is"
        q, k, v, lengths, k_table, v_table = (tensor_to_device_buffer[node] for node in self.nodes)
        for b, length in enumerate(lengths.flatten().tolist()):
            keys, values = (
                paged(pool.transpose(1, 2), table[b].flatten())
                for pool, table in ((k, k_table), (v, v_table))
            )
            rows = dense(q[b].transpose(0, 1), keys, values, length, *self.options)
            tensor_to_device_buffer[self.output][b] = rows.transpose(0, 1)


def cudnn():
    """The module `cudnn`."""
    return SimpleNamespace(
        pygraph=CudnnGraph,
        create_handle=dict,
        set_stream=lambda handle, stream: handle.update(stream=stream),
        data_type=SimpleNamespace(HALF="HALF", BFLOAT16="BFLOAT16", FLOAT="FLOAT"),
        diagonal_alignment=SimpleNamespace(BOTTOM_RIGHT="BOTTOM_RIGHT"),
        heur_mode=SimpleNamespace(A="A"),
    )


class CausalWithOffsetPaddedKeys:
    @classmethod
    def from_seqlens(cls, q_seqlen, kv_padding, kv_seqlen, causal_diagonal=None, *, device=None):
        assert device is not None, "else it is on the CUDA device that is current"
        return SimpleNamespace(queries=q_seqlen, padding=kv_padding, lengths=kv_seqlen, left=-1)


class CausalLocalPaddedKeys:
    @classmethod
    def from_seqlens_local(cls, q_seqlen, kv_padding, kv_seqlen, window_size):
        bias = SimpleNamespace(queries=q_seqlen, padding=kv_padding, lengths=kv_seqlen, left=window_size - 1)
        return SimpleNamespace(to=lambda device: bias)


@dataclass
class XformersInputs:
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_bias: object = None
    p: float = 0.0
    scale: float | None = None
    output_dtype: torch.dtype | None = None
    is_partial: bool = False


class SplitK:
    """`triton_splitk.FwOp`."""

    @classmethod
    def apply(cls, inp, needs_gradient):
        assert set(inp.attn_bias.queries) == {1} and not needs_gradient
        assert inp.key.shape[3] == 1 or inp.key.stride(3) == inp.value.stride(3) == 0, "else it is copied"
        bias, outputs = inp.attn_bias, []
        for b, length in enumerate(bias.lengths):
            k, v = (x[0, b * bias.padding :][: bias.padding, :, 0] for x in (inp.key, inp.value))
            rows = inp.query[:, b].flatten(1, 2)
            outputs.append(dense(rows, k, v, length, inp.scale, True, bias.left, None))
        return torch.stack(outputs, dim=1).view(inp.query.shape), None


def refuse(*args, **kwargs):
    raise ValueError("xFormers wasn't build with CUDA support")


def xformers_fmha():
    """The module `xformers.ops.fmha`, with its `attn_bias`."""
    biases = SimpleNamespace(
        BlockDiagonalCausalWithOffsetPaddedKeysMask=CausalWithOffsetPaddedKeys,
        BlockDiagonalCausalLocalAttentionPaddedKeysMask=CausalLocalPaddedKeys,
    )
    return SimpleNamespace(
        attn_bias=biases,
        Inputs=XformersInputs,
        memory_efficient_attention_forward=refuse,
        triton_splitk=SimpleNamespace(FwOp=SplitK),
    )


def jax_mqa(
    q, k, v, start_idx=None, kv_seq_len=None, sm_scale=None, block_h=16, block_k=256, k_splits=16,
    num_warps=None, num_stages=2, grid=None, interpret=False, debug=False, return_residuals=False,
    normalize_output=True,
):  # fmt: skip
    """Keys `start_idx <= j < kv_seq_len` of each sequence, in float32 whatever came in."""
    assert k.shape[1] % k_splits == 0 and k.shape[1] // k_splits % block_k == 0
    assert k.is_contiguous() and v.is_contiguous()
    rows = [
        dense(q[n : n + 1], k[n, first:, None], v[n, first:, None], end - first, sm_scale, True, -1, None)
        for n, (first, end) in enumerate(zip(start_idx.tolist(), kv_seq_len.tolist(), strict=True))
    ]
    return SimpleNamespace(block_until_ready=lambda: torch.cat(rows).to(torch.float32))
