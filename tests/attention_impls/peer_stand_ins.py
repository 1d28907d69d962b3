"""Stand-ins for libraries that run on CUDA alone: their parameters, and what they compute, on the CPU.

Names, order and defaults of the parameters are those of flash-attn 2.8.3, tokenspeed-fa3 3.0.0, flash-attn-4
4.0.0b36, flashinfer-python 0.6.15 and PyTorch 2.11 and 2.13.
"""

import torch


def dense(q, k, v, length, scale, causal, left, soft_cap):
    """One sequence, `[Q, H, D]` over `[K, G, D]`: `left` keys before the query's own, -1 for all."""
    k, v = (x[:length].repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q, k) * scale
    logits = soft_cap * torch.tanh(logits / soft_cap) if soft_cap else logits
    position, key = torch.arange(length - len(q), length)[:, None], torch.arange(length)
    hidden = (key > position) & causal | ((key < position - left) & (left >= 0))
    return torch.einsum("hqk,khd->qhd", logits.masked_fill(hidden, -torch.inf).softmax(-1), v)


def paged(pool, pages):
    return pool[pages.long()].flatten(0, 1)


def _with_kvcache(q, k_cache, v_cache, lengths, table, scale, causal, window_size, softcap):
    left, right = window_size
    assert lengths.dtype == torch.int32 and (table is None or table.dtype == torch.int32)
    # With one query and neither bound, FlashAttention-2 folds the group into the queries.
    assert right == (0 if causal and q.shape[1] > 1 else -1)
    outputs = []
    for b, length in enumerate(lengths.tolist()):
        k, v = (cache[b] if table is None else paged(cache, table[b]) for cache in (k_cache, v_cache))
        outputs.append(dense(q[b], k, v, length, scale, causal, left, softcap))
    return torch.stack(outputs)


def flash_attn_2_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None,
    cache_batch_idx=None, cache_leftpad=None, block_table=None, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, rotary_interleaved=True, alibi_slopes=None, num_splits=0,
    return_softmax_lse=False,
):  # fmt: skip
    assert (k, v, rotary_cos, cache_batch_idx, alibi_slopes, num_splits) == (None, None, None, None, None, 0)
    cache = (k_cache, v_cache, cache_seqlens, block_table)
    return _with_kvcache(q, *cache, softmax_scale, causal, window_size, softcap)


def flash_attn_3_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None,
    cache_batch_idx=None, cache_leftpad=None, page_table=None, cu_seqlens_q=None, cu_seqlens_k_new=None,
    max_seqlen_q=None, rotary_seqlens=None, q_descale=None, k_descale=None, v_descale=None,
    softmax_scale=None, causal=False, window_size=(-1, -1), attention_chunk=0, softcap=0.0,
    rotary_interleaved=True, scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0,
    return_softmax_lse=False, sinks=None,
):  # fmt: skip
    assert (k, v, qv, cu_seqlens_q, pack_gqa, num_splits) == (None, None, None, None, None, 0)
    cache = (k_cache, v_cache, cache_seqlens, page_table)
    return _with_kvcache(q, *cache, softmax_scale, causal, window_size, softcap)


def flash_attn_4_func(
    q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, window_size=(None, None),
    learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, score_mod=None,
    score_mod_bwd=None, mask_mod=None, aux_tensors=None, aux_scalars=None, block_sparse_tensors=None,
    block_sparse_tensors_bwd=None, return_lse=False, gather_bwd_recompute_p=False,
    gather_bwd_token_chunk=None,
):  # fmt: skip
    left, right = window_size
    causal = causal or right == 0
    options = (k.shape[1], softmax_scale, causal, -1 if left is None else left, softcap)
    output = torch.stack([dense(*rows, *options) for rows in zip(q, k, v, strict=True)])
    return output, None


def _varlen(query, key, value, cu_seq_q, lengths, keys_of, scale, window_size):
    left, right = window_size
    outputs = []
    for b, length in enumerate(lengths):
        q = query[cu_seq_q[b] : cu_seq_q[b + 1]]
        assert right == 0 or len(q) == 1 or left < 0
        k, v = (keys_of(x, b) for x in (key, value))
        outputs.append(dense(q, k, v, length, scale, right == 0, left, None))
    return torch.cat(outputs)


def varlen_of_2_13(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    assert enable_gqa == (query.shape[1] != key.shape[-2])
    if block_table is None:
        lengths, keys_of = cu_seq_k.diff().tolist(), lambda x, b: x[cu_seq_k[b] : cu_seq_k[b + 1]]
    else:
        lengths, keys_of = seqused_k.tolist(), lambda x, b: paged(x, block_table[b])
    assert max(lengths) <= max_k and (cu_seq_k is None) != (block_table is None)
    return _varlen(query, key, value, cu_seq_q, lengths, keys_of, scale, window_size)


def varlen_of_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    return varlen_of_2_13(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size
    )


class FlashinferWrapper:
    """What FlashInfer's wrappers for decode and prefill over pages share."""

    def _run(self, q, paged_kv_cache):
        outputs = []
        k_pool, v_pool = paged_kv_cache
        for b in range(len(self.indptr) - 1):
            pages = self.indices[self.indptr[b] : self.indptr[b + 1]]
            length = (len(pages) - 1) * self.page_size + int(self.last[b])
            assert 0 < self.last[b] <= self.page_size == k_pool.shape[1]
            rows = q[b : b + 1] if self.starts is None else q[self.starts[b] : self.starts[b + 1]]
            outputs.append(dense(rows, paged(k_pool, pages), paged(v_pool, pages), length, *self.options))
        return torch.cat(outputs)

    def _plan(self, starts, indptr, indices, last, page_size, *options):
        assert {x.dtype for x in (indptr, indices, last)} == {torch.int32}
        self.starts, self.indptr, self.indices, self.last = starts, indptr, indices, last
        self.page_size, self.options = page_size, options


class FlashinferDecode(FlashinferWrapper):
    def __init__(
        self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, use_tensor_cores=False,
        paged_kv_indptr_buffer=None, paged_kv_indices_buffer=None, paged_kv_last_page_len_buffer=None,
        backend="auto", jit_args=None,
    ):  # fmt: skip
        assert (kv_layout, float_workspace_buffer.dtype) == ("NHD", torch.uint8) and not use_cuda_graph
        self.use_tensor_cores = use_tensor_cores

    def plan(
        self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, *,
        pos_encoding_mode="NONE", window_left=-1, window_right=0, logits_soft_cap=None, q_data_type="float16",
        kv_data_type=None, o_data_type=None, data_type=None, sm_scale=None, rope_scale=None, rope_theta=None,
        non_blocking=True, block_tables=None, seq_lens=None, fixed_split_size=None, disable_split_kv=False,
        q_len_per_req=1,
    ):  # fmt: skip
        assert q_data_type == kv_data_type
        # `DISPATCH_GQA_GROUP_SIZE`: the groups that its kernel for CUDA cores knows.
        assert self.use_tensor_cores or num_qo_heads // num_kv_heads in (1, 2, 3, 4, 8)
        pages = (None, indptr, indices, last_page_len, page_size)
        self._plan(*pages, sm_scale, True, window_left, logits_soft_cap)

    def run(
        self, q, paged_kv_cache, *args, q_scale=None, k_scale=None, v_scale=None, out=None, lse=None,
        return_lse=False, enable_pdl=None, window_left=None, sinks=None, q_len_per_req=None,
        skip_softmax_threshold_scale_factor=None, kv_cache_sf=None,
    ):  # fmt: skip
        return self._run(q, paged_kv_cache)


class FlashinferPrefill(FlashinferWrapper):
    def __init__(
        self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, qo_indptr_buf=None,
        paged_kv_indptr_buf=None, paged_kv_indices_buf=None, paged_kv_last_page_len_buf=None,
        custom_mask_buf=None, mask_indptr_buf=None, backend="auto", jit_args=None, jit_kwargs=None,
    ):  # fmt: skip
        assert (kv_layout, float_workspace_buffer.dtype) == ("NHD", torch.uint8) and not use_cuda_graph

    def plan(
        self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads,
        num_kv_heads, head_dim_qk, page_size, head_dim_vo=None, custom_mask=None, packed_custom_mask=None,
        causal=False, pos_encoding_mode="NONE", use_fp16_qk_reduction=False, sm_scale=None, window_left=-1,
        logits_soft_cap=None, rope_scale=None, rope_theta=None, q_data_type="float16", kv_data_type=None,
        o_data_type=None, non_blocking=True, prefix_len_ptr=None, token_pos_in_items_ptr=None,
        token_pos_in_items_len=0, max_item_len_ptr=None, seq_lens=None, seq_lens_q=None, block_tables=None,
        max_token_per_sequence=None, max_sequence_kv=None, fixed_split_size=None, disable_split_kv=False,
    ):  # fmt: skip
        assert q_data_type == kv_data_type
        pages = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, page_size)
        self._plan(*pages, sm_scale, causal, window_left, logits_soft_cap)

    def run(
        self, q, paged_kv_cache, *args, q_scale=None, k_scale=None, v_scale=None, out=None, lse=None,
        return_lse=False, enable_pdl=None, window_left=None, sinks=None, kv_cache_sf=None,
        skip_softmax_threshold_scale_factor=None,
    ):  # fmt: skip
        assert out is not None, "it would fill one with zeros first"
        return out.copy_(self._run(q, paged_kv_cache))


def flashinfer_xqa(
    query, kv_cache, workspace_buffer, block_tables, seq_lens, max_seq_len, bmm1_scale=1.0, bmm2_scale=1.0,
    window_left=-1, out=None, sinks=None, kv_layout="NHD", enable_pdl=None, q_len_per_req=1, o_scale=1.0,
    mask=None, kv_cache_sf=None,
):  # fmt: skip
    assert kv_layout == "NHD" and isinstance(kv_cache, tuple) and isinstance(bmm1_scale, float)
    assert not workspace_buffer.any() and query.is_contiguous()
    outputs = []
    for b, n in enumerate(seq_lens.tolist()):
        k, v = (paged(x, block_tables[b]) for x in kv_cache)
        outputs.append(dense(query[b : b + 1], k, v, n, bmm1_scale, True, window_left, 0))
    return torch.cat(outputs)
