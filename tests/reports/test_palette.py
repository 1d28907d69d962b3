"""A colour belongs to an impl for life, and can be told from its neighbours'."""

import itertools

import pytest

from gqabench.attention_impls import list_impls
from gqabench.attention_impls.registry import BUILT_IN_IMPLS
from gqabench.conf import list_presets, read_preset
from gqabench.reports.figures.axes import MAX_ARMS
from gqabench.reports.figures.palette import IMPL_STYLES, KV_HEADS_COLORS, NEUTRAL, impl_style
from tests.reports.colour_vision import VISIONS, contrast, distance

LEAST_DISTANCE = {"normal": 0.09, "protanopia": 0.05, "deuteranopia": 0.05}
"""In OKLab, within an `impl_set` that one panel shows whole."""
LEAST_DISTANCE_ANYWHERE = {"normal": 0.045, "protanopia": 0.019, "deuteranopia": 0.019}
LEAST_CONTRAST = 3.0
"""WCAG 2.2, success criterion 1.4.11: lines and symbols against what they stand on."""
PAGES = ("#FFFFFF", "#12181F")

IMPL_SETS = {name: read_preset("impl_set", name).values["impls"] for name in list_presets("impl_set")}
IMPL_SETS_OF_ONE_PANEL = {name: impls for name, impls in IMPL_SETS.items() if len(impls) <= MAX_ARMS}


def too_close(impls, least, vision):
    """Return the pairs that look nearer than `least`, with their distance."""
    distances = {
        (one, other): distance(impl_style(one).color, impl_style(other).color, vision)
        for one, other in itertools.combinations(impls, 2)
    }
    return {pair: round(value, 3) for pair, value in distances.items() if value < least}


def test_the_table_names_every_registered_implementation_and_no_other():
    assert set(IMPL_STYLES) == set(BUILT_IN_IMPLS)


def test_colours_that_figures_in_the_world_already_have():
    assert impl_style("repeat_kv").color == "#D55E00"
    assert impl_style("grouped_matmul").color == "#0072B2"
    assert impl_style("sdpa").color == "#009E73"


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("impl_set", IMPL_SETS_OF_ONE_PANEL)
def test_the_colours_of_a_set_are_far_apart(impl_set, vision):
    assert too_close(IMPL_SETS_OF_ONE_PANEL[impl_set], LEAST_DISTANCE[vision], vision) == {}


@pytest.mark.parametrize("vision", VISIONS)
def test_any_two_colours_differ_visibly(vision):
    assert too_close(BUILT_IN_IMPLS, LEAST_DISTANCE_ANYWHERE[vision], vision) == {}


@pytest.mark.parametrize("impl_set", IMPL_SETS_OF_ONE_PANEL)
def test_the_markers_of_a_set_differ(impl_set):
    markers = [impl_style(impl).marker for impl in IMPL_SETS_OF_ONE_PANEL[impl_set]]
    assert len(set(markers)) == len(markers)


def test_no_two_implementations_look_alike_in_greyscale():
    looks = [(impl_style(impl).marker, impl_style(impl).dashes) for impl in BUILT_IN_IMPLS]
    assert len(set(looks)) == len(looks)


def test_no_implementation_has_the_colour_of_a_head_count_or_a_formula():
    for impl, reserved in itertools.product(BUILT_IN_IMPLS, (*KV_HEADS_COLORS, NEUTRAL)):
        assert distance(impl_style(impl).color, reserved) > 0.06, (impl, reserved)


@pytest.mark.parametrize("page", PAGES)
def test_lines_stand_out_from_a_white_and_a_dark_page(page):
    looks = {impl: impl_style(impl) for impl in (*BUILT_IN_IMPLS, *(f"kernel_{n}" for n in range(100)))}
    assert {
        impl: look.color for impl, look in looks.items() if contrast(look.color, page) < LEAST_CONTRAST
    } == {}


def test_a_name_outside_the_table_has_one_style_in_every_process():
    assert "my_kernel" not in list_impls()
    assert impl_style("my_kernel") == impl_style("my_kernel")
    assert impl_style("my_kernel").color == "#0060D8"  # sha256, not Python's salted hash


def test_a_name_outside_the_table_takes_no_colour_from_it():
    taken = {style.color for style in IMPL_STYLES.values()}
    assert not taken & {impl_style(f"kernel_{n}").color for n in range(100)}


def test_a_variant_keeps_the_colour_and_differs_otherwise():
    base, other = impl_style("sdpa"), impl_style("sdpa", 1)
    assert other.color == base.color
    assert other.marker != base.marker
    assert other.dashes != base.dashes


def test_distances_and_contrasts_of_colours_that_are_known():
    assert distance("#FFFFFF", "#000000") == pytest.approx(1.0, abs=1e-6)
    assert contrast("#FFFFFF", "#000000") == pytest.approx(21.0)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(
        4.48, abs=0.01
    )  # WCAG's well-known near miss of 4.5
    assert distance("#FF0000", "#00FF00") > distance("#FF0000", "#00FF00", "deuteranopia")
