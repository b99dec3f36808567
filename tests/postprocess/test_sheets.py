"""The sheet repairs: what each promises, and what each is for."""

import itertools

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesuvius_kit.checks import InputError
from vesuvius_kit.metrics import betti_matching_counts
from vesuvius_kit.postprocess.bridges import bridge_gaps, cut_bridges
from vesuvius_kit.postprocess.heights import flatten_sheets, patch_heights
from vesuvius_kit.postprocess.pinholes import plug_pinholes, plug_table
from vesuvius_kit.postprocess.pipeline import STEPS, promises_of
from vesuvius_kit.postprocess.promises import ADDS_ONLY, JOINS_NOTHING, KEEPS_OCTANTS, NO_NEW_TUNNELS, REMOVES_ONLY
from vesuvius_kit.postprocess.redraw import redraw_sheets
from vesuvius_kit.postprocess.ridges import smooth_gaussian, trace_ridges
from vesuvius_kit.postprocess.separation import separate_sheets
from vesuvius_kit.postprocess.sheets import close_sheets, grow_sheets
from vesuvius_kit.postprocess.slits import slit_tunnels
from vesuvius_kit.postprocess.steps import remove_small_components
from vesuvius_kit.postprocess.wraps import assemble_wraps

FULL = np.ones((3, 3, 3))

# Each step with parameters that make it work on a block of a dozen voxels.
PROMISING = {
    "plug_pinholes": {},
    "patch_heights": {"min_size": 1},
    "close_sheets": {"radius": 2},
    "grow_sheets": {"t_low": 0.3},
    "assemble_wraps": {"t_low": 0.3, "min_contact": 1, "max_overlap": 0.3},
    "separate_sheets": {"thresholds": [0.55, 0.7], "window": 4, "min_size": 5},
    "cut_bridges": {"radius": 2, "sigma": 1.0},
    "bridge_gaps": {"length": 4, "sigma": 1.0},
    "redraw_sheets": {"thickness": 2.0, "sigma": 1.0},
    "slit_tunnels": {"min_size": 2},
    "remove_small_components": {"min_size": 4},
    "fill_cavities": {},
}


def components(mask):
    return ndimage.label(mask, FULL)


def tunnels(mask):
    return betti_matching_counts(mask, mask)[1, 1]


def octants(shape):
    """Those of the score."""
    halves = [(slice(0, -(-size // 2)), slice(-(-size // 2), size)) for size in shape]
    return list(itertools.product(*halves))


@st.composite
def blobs(draw):
    """A smooth probability and a mask: sheets, blobs, noise, with holes and bridges by chance."""
    shape = draw(st.tuples(*[st.integers(1, 13)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    noise = ndimage.gaussian_filter(rng.random(shape), draw(st.sampled_from([0.0, 0.6, 1.2])))
    noise -= noise.min()
    noise /= max(noise.max(), 1e-9)
    if draw(st.booleans()):
        height = np.arange(shape[0])[:, None, None] % draw(st.integers(3, 6))
        noise = np.clip(noise * 0.7 + 0.5 * (height == 1), 0, 1)
    probability = noise.astype(np.float32)
    return probability, probability >= draw(st.sampled_from([0.4, 0.5, 0.6, 0.8]))


def apply(name, probability, mask):
    import inspect

    given_ = {"probability": probability, "mask": mask}
    takes = inspect.signature(STEPS[name]).parameters
    return STEPS[name](**{key: value for key, value in given_.items() if key in takes}, **PROMISING[name])


def test_every_step_that_promises_is_tested():
    assert {name for name in STEPS if promises_of(name)} == set(PROMISING)


@pytest.mark.parametrize("name", PROMISING)
@settings(max_examples=60, deadline=None)
@given(blobs())
def test_promises_hold(name, block):
    probability, mask = block
    before = mask.copy(), probability.copy()
    result = apply(name, probability, mask)
    np.testing.assert_array_equal(mask, before[0])
    np.testing.assert_array_equal(probability, before[1])
    assert result.dtype == bool
    assert result.shape == mask.shape
    promises = promises_of(name)
    if ADDS_ONLY in promises:
        assert not (mask & ~result).any()
    if REMOVES_ONLY in promises:
        assert not (result & ~mask).any()
    if JOINS_NOTHING in promises:
        labels, _ = components(result)
        old, count = components(mask)
        kept = mask & result
        pairs = np.unique(np.stack([old[kept], labels[kept]]), axis=1)
        # No new component holds two old ones, and where nothing is removed each old one lies in one new one.
        assert pairs.shape[1] == len(np.unique(pairs[1]))
        assert ADDS_ONLY not in promises or pairs.shape[1] == count
    if NO_NEW_TUNNELS in promises:
        assert tunnels(result) <= tunnels(mask)
    if KEEPS_OCTANTS in promises:
        for octant in octants(mask.shape):
            counts = betti_matching_counts(result[octant], mask[octant])
            # Matched, of the result's alone, of the mask's alone: as many features, and none lost.
            assert counts[:, 1].tolist() == counts[:, 2].tolist()


@pytest.mark.parametrize("name", [*PROMISING, "flatten_sheets"])
def test_empty_and_full_volumes_pass(name):
    parameters = PROMISING.get(name, {})
    for value, shape in itertools.product((False, True), ((9, 10, 11), (1, 1, 1), (0, 4, 4))):
        mask = np.full(shape, value)
        takes = {"probability": mask.astype(np.float32), "mask": mask}
        import inspect

        known = inspect.signature(STEPS[name]).parameters
        result = STEPS[name](**{key: part for key, part in takes.items() if key in known}, **parameters)
        if not value:
            assert not result.any()
        elif name != "separate_sheets":  # a block is no sheet, but it must not raise
            assert result.any() or mask.size <= 1


def test_the_plug_table_is_minimal():
    table = plug_table()
    assert table.shape[0] == 256

    def watertight(pattern):
        # In the block, and in each of its faces: what hangs together at all hangs together by faces, mask and background.
        block = np.array([pattern >> k & 1 for k in range(8)]).reshape(2, 2, 2)
        faces = [np.take(block, [side], axis=axis) for axis in range(3) for side in (0, 1)]
        return all(ndimage.label(part == value)[1] <= 1 for part in [block, *faces] for value in (0, 1))

    tight = {pattern for pattern in range(256) if watertight(pattern)}
    for pattern in range(256):
        ways = [int(way) for way in table[pattern] if way]
        assert bool(ways) != (pattern in tight)
        for way in ways:
            assert not way & pattern
            assert pattern | way in tight
        least = min((w.bit_count() for w in range(256) if pattern | w in tight), default=0)
        assert {way.bit_count() for way in ways} <= {least}


def test_plugging_makes_a_diagonal_sheet_watertight():
    mask = np.zeros((9, 9, 9), bool)
    for k in range(9):
        mask[k, :, k] = True  # hangs together by edges only
    result = plug_pinholes(mask)
    assert ndimage.label(~result, FULL)[1] == 2
    assert ndimage.label(~mask, FULL)[1] == 1


def test_a_hole_in_a_tilted_sheet_is_patched():
    z, y, x = np.mgrid[:30, :40, :40]
    sheet = np.abs(z - 10 - 0.3 * y) <= 1
    hole = (y - 20) ** 2 + (x - 20) ** 2 <= 36
    mask = sheet & ~hole
    result = patch_heights(mask)
    assert tunnels(mask) == 1
    assert tunnels(result) == 0
    assert (result & sheet & hole).sum() > 0.8 * (sheet & hole).sum()
    assert (result & ~sheet).sum() < 0.2 * (sheet & hole).sum()


def test_a_patch_that_would_touch_another_sheet_is_dropped():
    mask = np.zeros((12, 30, 30), bool)
    mask[4:6] = True
    mask[4:6, 10:20, 10:20] = False
    mask[5:9, 14:16, 14:16] = True  # something else sticks in the hole
    np.testing.assert_array_equal(patch_heights(mask, min_size=100), mask)


def test_closing_a_sheet_stays_off_its_neighbour():
    mask = np.zeros((18, 30, 30), bool)
    mask[1:8] = True
    mask[11:13] = True
    mask[1:8, 14:16, 14:16] = False
    result = close_sheets(mask, 3)
    assert result[4].all()
    assert components(result)[1] == 2
    # Closed as one mask, the gap of three voxels between the two is filled.
    assert components(ndimage.binary_closing(mask, FULL, iterations=3))[1] == 1


def two_wraps(gap=6):
    """Two parallel layers of strong voxels with a weak bridge between them."""
    probability = np.zeros((20, 40, 40), np.float32)
    probability[5:7], probability[5 + gap : 7 + gap] = 0.9, 0.9
    probability[7 : 5 + gap, 18:22, 18:22] = 0.55
    return probability


def test_touching_sheets_come_apart_at_a_higher_threshold():
    probability = two_wraps(5)
    mask = probability >= 0.5
    assert components(mask)[1] == 1
    result = separate_sheets(probability, mask, thresholds=[0.6, 0.7])
    assert components(result)[1] == 2
    single = mask.copy()
    single[8:] = False
    np.testing.assert_array_equal(separate_sheets(probability, single, thresholds=[0.95]), single)


def test_growing_finds_both_wraps_and_leaves_a_seam():
    probability = two_wraps()
    seeds = probability >= 0.8
    result = grow_sheets(probability, seeds, 0.5)
    assert components(result)[1] == 2
    assert 0 < result[7:11, 18:22, 18:22].sum() < 64


def test_fragments_edge_to_edge_are_joined_and_face_to_face_are_not():
    probability = two_wraps()
    probability[5:7, :, 20] = 0.6  # a crack in the first wrap
    seeds = probability >= 0.8
    assert components(seeds)[1] == 3
    result = assemble_wraps(probability, seeds, t_low=0.5, min_contact=1)
    labels, count = components(result)
    assert count == 2
    assert len(np.unique(labels[5:7][labels[5:7] > 0])) == 1
    assert result[5:7].all()


def test_a_thin_bridge_is_cut_and_the_sheets_stay():
    mask = np.zeros((30, 40, 40), bool)
    mask[5:7] = mask[21:23] = True
    mask[7:21, 19:21, 19:21] = True
    result = cut_bridges(mask)
    assert not result[12:16].any()
    result = remove_small_components(result, 50)  # crumbs of the bridge
    assert components(result)[1] == 2
    assert result[5:7].all()
    assert result[21:23].all()


def test_a_gap_is_bridged_along_the_sheet_only():
    mask = np.zeros((24, 40, 40), bool)
    mask[6:8] = mask[15:17] = True
    mask[6:8, 10:30, 18:22] = False
    result = bridge_gaps(mask, length=8)
    assert result[6:8].all()
    np.testing.assert_array_equal(result[9:], mask[9:])


def test_a_bridge_joins_no_two_sheets():
    mask = np.zeros((20, 40, 40), bool)
    mask[8:10] = True
    mask[8:10, :, 18:22] = False  # from side to side: two sheets in one plane
    np.testing.assert_array_equal(bridge_gaps(mask, length=8), mask)
    mask[8:10, :4, 18:22] = True  # joined at one end: one sheet
    assert bridge_gaps(mask, length=8)[8:10].all()
    mask[8:10, 20:23, 20] = True  # a third lies in the gap
    mask[8:10, 15:28, 19:22] &= mask[8:10, 15:28, 19:22] & (np.arange(19, 22) == 20)
    before = components(mask)[1]
    result = bridge_gaps(mask, length=8)
    assert result.sum() > mask.sum()
    assert components(result)[1] == before


@pytest.mark.parametrize("n_threads", [1, 3])
def test_bridges_are_the_same_for_any_number_of_threads(n_threads):
    rng = np.random.default_rng(4)
    mask = ndimage.gaussian_filter(rng.random((60, 30, 30)), 1.5) > 0.5
    many = bridge_gaps(mask, length=6, min_cosine=0.3)
    usual = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, usual))
    try:
        np.testing.assert_array_equal(bridge_gaps(mask, length=6, min_cosine=0.3), many)
    finally:
        numba.set_num_threads(usual)
    assert many.sum() > mask.sum()


def test_flattening_makes_a_rough_sheet_even():
    rng = np.random.default_rng(0)
    z, y, _ = np.mgrid[:30, :50, :50]
    height = 12 + 0.2 * y[0] + ndimage.gaussian_filter(rng.normal(0, 1.5, (50, 50)), 0.6)
    mask = np.abs(z - height) <= 1.5
    result = flatten_sheets(mask, thickness=3, smoothing=2.0, min_coverage=0.5)
    inner = result[:, 5:-5, 5:-5].sum(axis=0)
    assert inner.min() >= 2
    assert inner.max() <= 4
    assert components(result)[1] == 1
    # Two wraps in one component are not drawn as one.
    merged = two_wraps() >= 0.5
    np.testing.assert_array_equal(flatten_sheets(merged), merged)


OLD = {"profile": "parabola", "plate": 0.0, "axial": False, "relative": False}


def test_ridges_keep_touching_wraps_apart_and_lie_where_the_probability_is_highest():
    probability = np.zeros((30, 30, 30), np.float32)
    probability[8:12], probability[12:15], probability[15:19] = 0.8, 0.3, 0.8
    strength = trace_ridges(probability, sigma=1.5, thickness=2.0, **OLD)
    assert strength.dtype == np.float16
    assert strength.max() <= 1
    layers = np.flatnonzero((strength > 0.1)[:, 15, 15])
    assert layers.tolist() == [9, 10, 16, 17]
    weak = trace_ridges(probability / 2, sigma=1.5, thickness=2.0, **OLD)
    np.testing.assert_allclose(weak, strength / 2, atol=1e-4)


@pytest.mark.parametrize("lean", [0.0, 0.4, 1.0, 2.0])
@pytest.mark.parametrize("blur", [0.6, 2.0])
def test_a_ridge_is_as_thick_as_stated_however_blurred_the_sheet_is(blur, lean):
    """The median run across the sheet in an axial plane, as labels are drawn."""
    _, y, x = np.mgrid[:24, :60, :60].astype(np.float32)
    drawn = np.abs(y - 30 - lean * (x - 30)) / np.hypot(1, lean) <= 1.5
    probability = ndimage.gaussian_filter(drawn.astype(np.float32), blur)
    result = trace_ridges(probability, sigma=2.5, thickness=3.0) >= 0.4
    inner = (slice(8, -8),) * 3
    thickness = result[inner].sum() / (drawn[inner].sum() / 3)
    assert 2.7 <= thickness <= 3.4


def test_ridges_are_thicker_along_the_normal_only_where_the_sheet_lies_flat():
    """A sheet in an axial plane has 0.77 of the thickness, one across it all of it."""
    probability = np.zeros((40, 40, 40), np.float32)
    probability[18:21] = 1.0
    flat = trace_ridges(probability, sigma=2.0, thickness=5.0)
    upright = np.moveaxis(trace_ridges(np.moveaxis(probability, 0, 1).copy(), sigma=2.0, thickness=5.0), 1, 0)
    free = trace_ridges(probability, sigma=2.0, thickness=5.0, axial=False)
    assert [(part[:, 20, 20] > 0).sum() for part in (flat, upright, free)] == [3, 5, 5]


@pytest.mark.parametrize("factor", [0.3, 0.6])
def test_relative_strength_does_not_depend_on_how_sure_the_network_is(factor):
    rng = np.random.default_rng(2)
    probability = np.zeros((30, 30, 30), np.float32)
    probability[8:11], probability[20:23] = 1.0, 0.7
    probability = ndimage.gaussian_filter(probability * rng.random((30, 30, 30)), 0.7).astype(np.float32)
    strong, weak = trace_ridges(probability), trace_ridges(probability * np.float32(factor))
    at = (strong > 0.2) & (weak > 0)
    np.testing.assert_allclose(weak[at], strong[at], atol=1e-3)
    # Where there is nothing but noise, nothing is usual.
    assert trace_ridges((0.01 * rng.random((30, 30, 30))).astype(np.float32)).max() < 0.3


def test_a_rod_is_weaker_than_a_sheet():
    probability = np.zeros((40, 40, 40), np.float32)
    probability[18:21] = 1.0
    probability[:, 19:22, 19:22] = 1.0
    strength = trace_ridges(probability, sigma=2.0, plate=1.0, relative=False)
    assert strength[8, 20, 20] < 0.25 * strength[19, 5, 5]
    assert trace_ridges(probability, sigma=2.0, plate=0.0, relative=False)[8, 20, 20] > 0.5 * strength[19, 5, 5]


FORMS = [OLD, {"profile": "gaussian", "plate": 0.6, "axial": True, "relative": False}, {}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(14, 17, 33), (1, 9, 20), (6, 5, 1)])
def test_ridges_equal_those_of_numpys_eigenvectors(shape, form):
    sigma, thickness = 1.2, 1.6
    smooth = smooth_gaussian(np.random.default_rng(3).random(shape, dtype=np.float32), sigma)
    rim = np.pad(smooth.astype(np.float64), 1, mode="edge")

    def at(z, y, x):
        return rim[1 + z : rim.shape[0] - 1 + z, 1 + y : rim.shape[1] - 1 + y, 1 + x : rim.shape[2] - 1 + x]

    units = np.eye(3, dtype=int)
    gradient = np.stack([at(*unit) - at(*-unit) for unit in units], axis=-1) / 2
    hessian = np.empty((*shape, 3, 3))
    for i, first in enumerate(units):
        for j, second in enumerate(units):
            if i == j:
                hessian[..., i, i] = at(*first) + at(*-first) - 2 * smooth
            else:
                corners = at(*(first + second)) - at(*(first - second)) - at(*(second - first)) + at(*(-first - second))
                hessian[..., i, j] = corners / 4
    values, vectors = np.linalg.eigh(hessian)
    curvature, second, normal = values[..., 0], values[..., 1], vectors[..., 0]
    slope = np.abs((gradient * normal).sum(axis=-1))
    settings = {"profile": "gaussian", "plate": 1.0, "axial": True, "relative": True} | form
    # Of the values, or of their logarithms.
    bend = -curvature + (slope**2 / smooth if settings["profile"] == "gaussian" else 0)
    half = thickness / 2 * (np.sqrt(np.maximum(1 - normal[..., 0] ** 2, 0.77**2)) if settings["axial"] else 1)
    offset = slope / np.maximum(bend, 1e-9) - half
    volume = np.random.default_rng(3).random(shape, dtype=np.float32)
    strength = trace_ridges(volume, sigma, thickness, **form)
    expected = (settings["plate"] * np.minimum(second, 0) - curvature) * sigma**2
    expected = np.where((curvature < 0) & (offset <= 0), np.clip(expected, 0, 1), 0)
    if settings["relative"]:
        plain = trace_ridges(volume, sigma, thickness, relative=False).astype(np.float64)
        usual = max((plain**2).sum() / plain.sum(), 0.02)
        expected = expected / (expected + usual)
    # Where rounding decides, anything goes.
    clear = (np.abs(offset) > 1e-3) & (np.abs(curvature) > 1e-5)
    assert clear.mean() > 0.65  # a volume of one plane has no curvature across it
    np.testing.assert_allclose(strength[clear], expected[clear], atol=1e-3)
    assert 0.02 < (strength > 0).mean() < 0.9


def test_smoothing_equals_scipy():
    rng = np.random.default_rng(1)
    for shape in ((9, 14, 20), (1, 5, 3)):
        volume = rng.random(shape, dtype=np.float32)
        expected = ndimage.gaussian_filter(volume, 1.5, mode="nearest", truncate=10 / 3 - 0.1)
        np.testing.assert_allclose(smooth_gaussian(volume, 1.5), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(blobs())
def test_no_octant_has_a_tunnel_after_slits(block):
    probability, mask = block
    result = slit_tunnels(probability, mask)
    for octant in octants(mask.shape):
        counts = betti_matching_counts(result[octant], mask[octant])
        assert counts[1, 1] == counts[2, 1] == 0
        assert counts[0, 1] == counts[0, 2]  # as many components as before


def test_redrawing_makes_a_thin_and_a_thick_sheet_three_voxels_thick_and_keeps_their_slits():
    mask = np.zeros((40, 48, 48), bool)  # in one octant: the other halves stay empty
    whole = np.zeros((80, 96, 96), bool)
    mask[10, 4:44, 4:44] = True
    mask[24:29, 4:44, 4:44] = True
    mask[:, 20, 4:30] = False  # a slit from the edge
    whole[:40, :48, :48] = mask
    result = redraw_sheets(whole, thickness=3.0, sigma=2.5, axial=False)[:40, :48, :48]
    for layers in (slice(0, 18), slice(18, 40)):
        inner = result[layers, 28:40, 8:40].sum(axis=0)
        assert (inner == 3).all()
        # A sheet gets no wider: the rim stays where it was.
        shadow, before = result[layers].any(axis=0), mask[layers].any(axis=0)
        assert not (shadow & ~before).any()
        assert (before & ~shadow).mean() < 0.1
    assert components(result)[1] == 2
    assert tunnels(result) == 0


def test_a_slit_goes_where_the_probability_is_low():
    probability = np.full((4, 40, 40), 0.9, np.float32)  # in one octant: the other halves stay empty
    probability[:, 10, 5:9] = 0.2
    mask = np.zeros((8, 80, 80), bool)
    mask[1:3, 2:20, 2:20] = True
    mask[1:3, 9:12, 9:12] = False
    whole = np.full(mask.shape, 0.9, np.float32)
    whole[:, 10, :9] = 0.2
    result = slit_tunnels(whole, mask)
    assert tunnels(mask) == 1
    assert tunnels(result) == 0
    removed = np.argwhere(mask & ~result)
    assert len(removed) <= 24
    assert set(removed[:, 1].tolist()) <= {9, 10, 11}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: close_sheets(m, -1), "radius must be >= 0"),
        (lambda m, p: close_sheets(p, 1), "mask must have a dtype of kind b"),
        (lambda m, p: patch_heights(m[0]), "mask must have 3 dimensions"),
        (lambda m, p: grow_sheets(p[1:], m, 0.2), "same shape"),
        (lambda m, p: grow_sheets(p, m, 2.0), "t_low must be"),
        (lambda m, p: separate_sheets(p, m, thresholds=[0.7, 0.5]), "thresholds must rise"),
        (lambda m, p: separate_sheets(p, m, thresholds="0.5"), "thresholds must be a sequence"),
        (lambda m, p: flatten_sheets(m, thickness=0), "thickness must be >= 1"),
        (lambda m, p: trace_ridges(p, sigma=0), "sigma must be > 0"),
        (lambda m, p: trace_ridges(p, plate=2), "plate must be"),
        (lambda m, p: trace_ridges(p, profile="box"), "profile must be one of parabola, gaussian"),
        (lambda m, p: redraw_sheets(m, thickness=0), "thickness must be > 0"),
        (lambda m, p: bridge_gaps(m, length=1), "length must be >= 2"),
        (lambda m, p: cut_bridges(m, min_share=1.5), "min_share must be"),
        (lambda m, p: slit_tunnels(p, m, min_size=-1), "min_size must be >= 0"),
        (lambda m, p: assemble_wraps(p, m, reach=1), "reach must be >= 3"),
        (lambda m, p: plug_pinholes([1]), "mask must be a NumPy array"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(np.zeros((4, 5, 6), bool), np.zeros((4, 5, 6), np.float32))
