"""The whole score: reference numbers, invariants, every kind of input."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.golden import DATA, load_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.metrics import leaderboard, leaderboard_score

GOLDEN = [
    pytest.param(*case, id=case[0]["name"]) for name in ("golden_small", "golden_medium") for case in load_cases(name)
]
FIELDS = ("score", "toposcore", "surface_dice", "voi_score", "voi_split", "voi_merge")


def check_case(case, score):
    assert score.topo_counts.tolist() == case["counts"]
    for field in FIELDS:
        assert getattr(score, field) == pytest.approx(case[field], rel=0, abs=1e-9)
    assert score.topo_f1 == pytest.approx(np.array(case["topo_f1"], dtype=float), rel=0, abs=1e-9, nan_ok=True)


def same(first, second):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second))


@pytest.mark.parametrize(("case", "prediction", "label"), GOLDEN)
def test_equals_the_competition(case, prediction, label):
    check_case(case, leaderboard_score(prediction, label))


@pytest.mark.long
def test_equals_the_competition_on_a_whole_chunk():
    if not (DATA / "golden_large.npz").exists():
        pytest.skip("golden_large is not in tests/files")
    for case, prediction, label in load_cases("golden_large"):
        check_case(case, leaderboard_score(prediction, label))


@pytest.fixture(scope="module")
def pair():
    return next(
        (prediction, label) for case, prediction, label in load_cases("golden_small") if "labelled" in case["name"]
    )


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint16, np.float16, np.float32, np.float64])
def test_any_dtype_of_prediction(pair, dtype):
    assert same(leaderboard_score(pair[0].astype(dtype), pair[1]), leaderboard_score(*pair))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.float32, np.float64])
def test_any_dtype_of_label(pair, dtype):
    assert same(leaderboard_score(pair[0], pair[1].astype(dtype)), leaderboard_score(*pair))


def test_memory_orders_and_read_only(pair):
    prediction, label = pair
    expected = leaderboard_score(prediction, label)
    assert same(leaderboard_score(np.asfortranarray(prediction), label), expected)
    assert same(leaderboard_score(prediction, label[::-1].copy()[::-1]), expected)
    wide = np.zeros((*prediction.shape[:2], 2 * prediction.shape[2]), dtype=prediction.dtype)
    wide[:, :, ::2] = prediction
    assert same(leaderboard_score(wide[:, :, ::2], label), expected)
    frozen = prediction.copy()
    frozen.flags.writeable = False
    assert same(leaderboard_score(frozen, label), expected)


def test_input_is_left_alone(pair):
    prediction, label = pair[0].astype(bool), pair[1].copy()
    before = prediction.copy(), label.copy()
    leaderboard_score(prediction, label)
    assert np.array_equal(prediction, before[0])
    assert np.array_equal(label, before[1])


def test_nan_is_background(pair):
    prediction, label = pair
    holes = np.where(prediction == 0, np.nan, 0.7).astype(np.float32)
    assert same(leaderboard_score(holes, label), leaderboard_score(prediction, label))
    assert same(leaderboard_score(np.full(label.shape, np.nan), label), leaderboard_score(np.zeros(label.shape), label))


def test_unlabelled_voxels_do_not_count(pair):
    prediction, label = pair
    noisy = np.where(label == 2, np.random.default_rng(0).integers(0, 2, label.shape), prediction)
    assert same(leaderboard_score(noisy, label), leaderboard_score(prediction, label))


def test_ignore_mask_replaces_the_ignore_label(pair):
    prediction, label = pair
    expected = leaderboard_score(prediction, label)
    surface = np.where(label == 2, 1, label)
    assert same(leaderboard_score(prediction, surface, ignore_mask=label == 2), expected)
    assert same(leaderboard_score(prediction, np.where(label == 2, 7, label), ignore_label=7), expected)
    # With a mask, or without an ignore label, 2 is foreground as anything else.
    nothing = np.zeros(label.shape, np.uint8)
    taken = leaderboard_score(prediction, surface, ignore_label=None)
    assert same(leaderboard_score(prediction, label, ignore_mask=nothing), taken)
    assert same(leaderboard_score(prediction, label, ignore_label=None), taken)


def test_perfect_and_empty():
    rng = np.random.default_rng(1)
    mask = rng.random((9, 10, 11)) < 0.4
    assert leaderboard_score(mask, mask).score == 1
    empty = leaderboard_score(np.zeros((5, 6, 7)), np.zeros((5, 6, 7)))
    assert (empty.score, empty.toposcore, empty.surface_dice, empty.voi_score) == (1, 1, 1, 1)
    assert np.isnan(empty.topo_f1).all()
    assert leaderboard_score(np.zeros((4, 4, 4)), np.ones((4, 4, 4))).surface_dice == 0


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 0, 4), (4, 4, 0), (0, 0, 0)])
def test_no_voxels(shape):
    assert leaderboard_score(np.zeros(shape), np.zeros(shape)).score == 1


@settings(max_examples=60)
@given(st.tuples(*[st.integers(1, 3)] * 3), st.integers(0, 999))
def test_tiny_volumes_have_finite_scores(shape, seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random(shape) < rng.random() for _ in range(2)]
    score = leaderboard_score(*masks)
    assert 0 <= score.score <= 1
    assert (score.topo_counts[:, 0] <= score.topo_counts[:, 1:].min(axis=1)).all()


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 1, 40), (40, 40, 1), (1, 1, 200), (2, 3, 131)])
def test_thin_volumes(shape):
    mask = np.random.default_rng(2).random(shape) < 0.6
    assert leaderboard_score(mask, mask).score == 1
    assert leaderboard_score(mask, ~mask).score < 1


def test_settings_change_their_part_only(pair):
    expected = leaderboard_score(*pair)
    assert leaderboard_score(*pair, voi_alpha=1.0).voi_score == pytest.approx(
        1 / (1 + expected.voi_split + expected.voi_merge)
    )
    wide = leaderboard_score(*pair, surface_tolerance=5.0)
    assert wide.surface_dice >= expected.surface_dice
    assert wide.toposcore == expected.toposcore
    # Twice the spacing is half the tolerance.
    assert leaderboard_score(*pair, spacing=(2, 2, 2), surface_tolerance=4).surface_dice == pytest.approx(
        expected.surface_dice
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[[1]]], np.zeros((1, 1, 1))), InputTypeError, "prediction must be a NumPy array, got list"),
        ((np.zeros((2, 2, 2)), np.zeros((2, 2))), InputValueError, "label must have 3 dimensions"),
        ((np.zeros((2, 2, 2)), np.zeros((2, 2, 3))), InputValueError, "prediction and label must have the same shape"),
        ((np.zeros((2, 2, 2), complex), np.zeros((2, 2, 2))), InputTypeError, "prediction must have a dtype of kind"),
    ],
)
def test_bad_volumes(arguments, error, message):
    with pytest.raises(error, match=message):
        leaderboard_score(*arguments)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"surface_tolerance": -1}, InputValueError, "surface_tolerance must be >= 0"),
        ({"voi_alpha": float("nan")}, InputValueError, "voi_alpha must be"),
        ({"spacing": (1, 1)}, InputValueError, "spacing must have 3 values, got 2"),
        ({"spacing": (1, 0, 1)}, InputValueError, r"spacing\[1\] must be > 0"),
        ({"spacing": 2}, InputTypeError, "spacing must be 3 numbers"),
        ({"ignore_label": "2"}, InputTypeError, "ignore_label must be an integer"),
        ({"ignore_mask": np.zeros((1, 1, 1))}, InputValueError, "ignore_mask and label must have the same shape"),
    ],
)
def test_bad_settings(option, error, message):
    with pytest.raises(error, match=message):
        leaderboard_score(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), **option)


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


TINY = """
import numpy as np
from vesuvius_kit.metrics import betti_matching_features, leaderboard_score
rng = np.random.default_rng(0)
for density in (0.3, 0.6, 0.9):
    masks = [rng.random((7, 6, 70)) < density for _ in range(2)]
    print(leaderboard_score(*masks).topo_counts.tolist(), round(leaderboard_score(*masks).score, 12))
    print(len(betti_matching_features(*masks)))
"""


def test_works_without_compilation():
    plain = run_python(TINY, NUMBA_DISABLE_JIT="1", PYTHONWARNINGS="error")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout == run_python(TINY).stdout


@pytest.mark.long
def test_no_kernel_leaves_its_arrays(tmp_path):
    tests = [
        os.path.join(os.path.dirname(__file__), name)
        for name in ("test_topology.py", "test_voi.py", "test_surface_dice.py")
    ]
    tests.append(os.path.join(os.path.dirname(__file__), "..", "voxel"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long", *tests],
        env=os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.long
def test_the_first_call_on_a_machine_says_that_it_compiles(tmp_path):
    code = "import logging; logging.basicConfig(level=logging.INFO)\n" + TINY
    first = run_python(code, NUMBA_CACHE_DIR=str(tmp_path))
    second = run_python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.stderr.count("once per machine") == 1
    assert "once per machine" not in second.stderr


def test_nothing_is_said_once_compiled(pair, caplog):
    leaderboard_score(*pair)
    with caplog.at_level(logging.INFO):
        leaderboard_score(*pair)
    assert not leaderboard.is_compilation_due()
    assert not caplog.records


def test_import_loads_no_torch():
    assert run_python("import sys, vesuvius_kit.metrics; sys.exit('torch' in sys.modules)").returncode == 0
