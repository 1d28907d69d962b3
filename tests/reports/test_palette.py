"""A colour belongs to an impl for life."""

import itertools

from gqabench.reports.figures.palette import IMPL_STYLES, KV_HEADS_COLORS, impl_style

BUILT_IN = (
    "reference", "repeat_kv", "repeat_kv_sdpa", "grouped_matmul", "folded_sdpa", "sdpa", "sdpa_flash",
    "sdpa_cudnn", "sdpa_efficient", "sdpa_math", "flex",
)  # fmt: skip


def test_colours_that_figures_in_the_world_already_have():
    assert impl_style("repeat_kv").color == "#D55E00"
    assert impl_style("grouped_matmul").color == "#0072B2"
    assert impl_style("sdpa").color == "#009E73"


def test_built_in_impls_have_colours_of_their_own():
    colors = [impl_style(impl).color for impl in BUILT_IN]
    assert len(set(colors)) == len(BUILT_IN)
    assert not set(colors) & set(KV_HEADS_COLORS)


def test_no_two_known_impls_look_alike():
    for one, other in itertools.combinations(IMPL_STYLES.values(), 2):
        assert one.color != other.color
        assert (one.color, one.marker, one.dashes) != (other.color, other.marker, other.dashes)


def test_built_in_impls_differ_in_greyscale():
    looks = [(impl_style(impl).marker, impl_style(impl).dashes) for impl in BUILT_IN]
    assert len(set(looks)) == len(BUILT_IN)


def test_an_unknown_name_has_one_style_in_every_process():
    assert impl_style("my_kernel") == impl_style("my_kernel")
    assert impl_style("my_kernel").color == "#7D4E57"  # sha256, not Python's salted hash


def test_a_variant_keeps_the_colour_and_differs_otherwise():
    base, other = impl_style("sdpa"), impl_style("sdpa", 1)
    assert other.color == base.color
    assert other.marker != base.marker
    assert other.dashes != base.dashes
