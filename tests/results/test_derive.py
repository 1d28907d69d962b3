from __future__ import annotations

from gqabench.results.statistics.derive import is_narrow, rate_fields, timing_fields


def test_timing_fields_keep_the_samples_in_order() -> None:
    fields = timing_fields([3.0, 1.0, 2.0])
    assert fields["samples_ms"] == [3.0, 1.0, 2.0]
    assert fields["latency_ms"] == 2.0
    assert fields["latency_ci_low_ms"] is None
    assert fields["latency_ci_high_ms"] is None


def test_rates_of_a_hand_worked_case() -> None:
    # 2 ms for 4 tokens, 8 MB and 6 GFLOP: 2000 tokens/s, 4 GB/s, 3 TFLOP/s
    rates = rate_fields(2.0, num_new_tokens=4, model_bytes=8_000_000, model_flops=6_000_000_000)
    assert rates == {"tokens_per_s": 2000.0, "achieved_gb_per_s": 4.0, "achieved_tflop_per_s": 3.0}


def test_narrow_needs_an_interval_within_the_target() -> None:
    assert not is_narrow([1.0] * 5, 0.01)  # no interval yet
    assert is_narrow([1.0] * 6, 0.01)
    assert not is_narrow([1.0, 1.0, 1.0, 1.2, 1.2, 1.2], 0.05)
    assert is_narrow([1.0, 1.0, 1.0, 1.2, 1.2, 1.2], 0.1)
