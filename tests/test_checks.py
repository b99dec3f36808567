import numpy as np
import pytest

from vesuvius_kit import checks


def test_errors_are_the_ordinary_ones_with_a_common_base():
    for error, ordinary in [
        (checks.InputTypeError, TypeError),
        (checks.InputValueError, ValueError),
        (checks.InputNotFoundError, FileNotFoundError),
    ]:
        assert issubclass(error, ordinary)
        assert issubclass(error, checks.InputError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 2.0])
def test_real_refuses_what_is_outside(value):
    with pytest.raises(checks.InputValueError, match="share must be >= 0 and <= 1, got"):
        checks.check_real("share", value, minimum=0, maximum=1)


def test_real_bounds_can_be_exclusive():
    assert checks.check_real("share", 0.5, above=0, below=1) == 0.5
    for value in (0, 1):
        with pytest.raises(checks.InputValueError):
            checks.check_real("share", value, above=0, below=1)


@pytest.mark.parametrize("value", [True, "1", None, 1j])
def test_real_refuses_other_kinds(value):
    with pytest.raises(checks.InputTypeError, match="share must be a number"):
        checks.check_real("share", value)


def test_integer_takes_numpy_integers_and_refuses_floats():
    assert checks.check_integer("size", np.int64(3)) == 3
    with pytest.raises(checks.InputTypeError, match="size must be an integer, got float"):
        checks.check_integer("size", 3.0)


def test_size_takes_one_edge_for_all_axes():
    assert checks.check_size("window", 4) == (4, 4, 4)
    assert checks.check_size("window", np.array([1, 2, 3])) == (1, 2, 3)
    with pytest.raises(checks.InputValueError, match="window must have 3 values, got 2"):
        checks.check_size("window", (1, 2))
    with pytest.raises(checks.InputTypeError):
        checks.check_size("window", "123")


def test_array_names_dimension_and_kind():
    array = np.zeros((2, 2))
    with pytest.raises(checks.InputValueError, match=r"mask must have 3 dimensions, got shape \(2, 2\)"):
        checks.check_array("mask", array)
    with pytest.raises(checks.InputTypeError, match="mask must have a dtype of kind b, got float64"):
        checks.check_array("mask", array, ndim=2, kinds="b")
    with pytest.raises(checks.InputTypeError, match="mask must be a NumPy array, got list"):
        checks.check_array("mask", [1])


def test_missing_paths_are_named(tmp_path):
    with pytest.raises(checks.InputNotFoundError, match=r"data must be an existing folder, got .*nowhere"):
        checks.check_folder("data", tmp_path / "nowhere")
    with pytest.raises(checks.InputNotFoundError, match=r"image must be an existing file, got .*nowhere"):
        checks.check_file("image", tmp_path / "nowhere")


def test_choice_lists_what_is_allowed():
    with pytest.raises(checks.InputValueError, match="views must be one of mirror, none, got 'all'"):
        checks.check_choice("views", "all", ["none", "mirror"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h30m", 30600), ("45m", 2700), ("90s", 90), ("600", 600), (600, 600), ("1h2m3s", 3723), ("0.5h", 1800)],
)
def test_durations(text, seconds):
    assert checks.check_duration("wait", text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5m3h", "-3m", "0s", "8h30"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(checks.InputValueError, match="wait must"):
        checks.check_duration("wait", text)
