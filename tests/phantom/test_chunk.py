"""The phantom: what a chunk must look like to the numbers, and the folder it fills."""

import csv
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesuvius_kit import phantom as phantom_package
from vesuvius_kit.checks import InputTypeError, InputValueError
from vesuvius_kit.constants import BACKGROUND, SURFACE, UNLABELLED
from vesuvius_kit.io.volume import read_volume, write_volume
from vesuvius_kit.phantom import REPORT_STYLES, STYLES, Phantom, list_styles, make_phantom, write_competition

BORDER = 3


REGULAR = [style for style in list_styles() if not STYLES[style].laminae]
HARD = [style for style in list_styles() if STYLES[style].laminae]


@pytest.fixture(scope="module")
def chunks():
    """One chunk of every style, large enough to hold several wraps."""
    return {style: make_phantom(112, seed, style) for seed, style in enumerate(list_styles())}


@pytest.fixture(scope="module")
def regular(chunks):
    return {style: chunks[style] for style in REGULAR}


def run_lengths(mask, axis):
    """For every true voxel, in C order of the moved axes, the length of its run along ``axis``; 0 elsewhere."""
    lines = np.moveaxis(mask, axis, -1)
    padded = np.pad(lines, [(0, 0)] * 2 + [(1, 1)]).astype(np.int8).ravel()
    change = np.diff(padded)
    lengths = np.flatnonzero(change == -1) - np.flatnonzero(change == 1)
    result = np.zeros(lines.shape, int)
    result[lines] = np.repeat(lengths, lengths)
    return np.moveaxis(result, -1, axis)


def thickness(mask):
    """Thickness of thin sheets at each of their voxels: the shortest of the three axis-parallel runs."""
    return np.minimum.reduce([run_lengths(mask, axis) for axis in range(3)])[mask]


def crop(array):
    return array[BORDER:-BORDER, BORDER:-BORDER, BORDER:-BORDER]


@pytest.mark.parametrize("style", list_styles())
def test_same_arguments_give_the_same_chunk(style):
    first, second = (make_phantom((40, 33, 47), 7, style) for _ in range(2))
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one, other)


def test_thread_count_does_not_matter():
    numba = pytest.importorskip("numba")
    before = numba.get_num_threads()
    expected = make_phantom(40, 3)
    try:
        numba.set_num_threads(1)
        alone = make_phantom(40, 3)
    finally:
        numba.set_num_threads(before)
    for one, other in zip(expected, alone):
        np.testing.assert_array_equal(one, other)


def test_the_global_random_state_is_neither_read_nor_changed():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = make_phantom(24, 5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(2)
    np.testing.assert_array_equal(make_phantom(24, 5).image, first.image)


def test_seeds_and_styles_differ():
    images = [make_phantom(32, seed, style).image for seed in range(3) for style in list_styles()]
    assert len({image.tobytes() for image in images}) == len(images)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    seed=st.integers(0, 2**40),
    style=st.sampled_from(list_styles()),
)
def test_every_chunk_keeps_the_rules(shape, seed, style):
    chunk = make_phantom(shape, seed, style)
    assert isinstance(chunk, Phantom)
    assert [array.dtype for array in chunk] == [np.uint8, np.uint8, np.bool_]
    assert all(array.shape == shape for array in chunk)
    assert set(np.unique(chunk.label)) <= {BACKGROUND, SURFACE, UNLABELLED}
    rim = np.ones(shape, bool)
    crop(rim)[...] = False
    assert not chunk.image[rim].any()
    assert (chunk.label[rim] == UNLABELLED).all()
    assert not chunk.surface[rim].any()


@pytest.mark.parametrize("shape", [(61, 130, 97), (96, 96, 96), (16, 16, 16), (7, 90, 8), (6, 50, 50), 20])
def test_any_shape(shape):
    chunk = make_phantom(shape, 1)
    assert chunk.image.shape == ((shape,) * 3 if isinstance(shape, int) else shape)
    if min(chunk.image.shape) <= 2 * BORDER:
        assert not chunk.image.any()
        assert not chunk.surface.any()
        assert (chunk.label == UNLABELLED).all()
    else:
        assert crop(chunk.image).any()


def test_label_shares_are_those_of_the_competition():
    labels = [make_phantom((64, 192, 192), seed, style).label for seed in range(2) for style in list_styles()]
    shares = np.array([np.bincount(crop(label).ravel(), minlength=3) / crop(label).size for label in labels])
    background, surface, unlabelled = shares.mean(axis=0)
    assert 0.25 < background < 0.50
    assert 0.03 < surface < 0.09
    assert 0.45 < unlabelled < 0.70
    # Chunks differ: the competition's range from 58 to 71 % unlabelled, and more.
    assert np.ptp(shares[:, UNLABELLED]) > 0.08
    # A labelled voxel is a surface voxel in one of five to fifteen.
    assert 1 / 15 < surface / (surface + background) < 1 / 5


def test_label_lines_are_three_voxels_thick(chunks):
    """As the real ones: median 3, mean 3.05 to 3.23; the exact truth is thinner."""
    counted = np.concatenate([thickness(crop(chunk.label) == SURFACE) for chunk in chunks.values()])
    assert np.median(counted) == 3
    assert 3.0 < counted.mean() < 3.3
    exact = np.concatenate([thickness(crop(chunk.surface)) for chunk in chunks.values()])
    assert np.median(exact) == 2


def test_a_label_is_drawn_slice_by_slice(chunks):
    """A voxel that sticks out alone is one in a hundred or so along z, and next to none within a slice."""
    alone = np.zeros(3)
    for chunk in chunks.values():
        line = crop(chunk.label) == SURFACE
        for axis in range(3):
            # A face of the cropped chunk cuts lines, so what lies at it is left out.
            inside = crop(line)
            alone[axis] += (crop(run_lengths(line, axis))[inside] == 1).sum() / inside.sum() / len(chunks)
    assert 0.002 < alone[0] < 0.03
    assert max(alone[1:]) < 0.2 * alone[0]


def test_a_label_follows_its_recto_and_strays_now_and_then(chunks):
    away = []
    for chunk in chunks.values():
        line = crop(chunk.label) == SURFACE
        # The faces, where a line turns aside, are left out.
        inner = (slice(14, -14),) * 3
        away.append(ndimage.distance_transform_edt(~crop(chunk.surface))[inner][line[inner]])
    away = np.concatenate(away)
    assert np.median(away) <= 1.0
    assert 0.90 < np.mean(away <= 2.0) < 0.999
    assert away.max() < 7


def test_label_lines_are_watertight(chunks):
    """A surface of two voxels has no hole that a 6-connected path could slip through: both sides stay apart."""
    for chunk in chunks.values():
        inside = crop(chunk.surface)
        sides, count = ndimage.label(~inside)
        sizes = np.sort(np.bincount(sides.ravel())[1:])[::-1]
        # Were the wraps leaky, the air would be one component.
        assert count >= 3
        assert sizes[1] > 0.03 * inside.size


def test_wraps_stay_apart_in_the_full_truth(chunks):
    """Lines two voxels thick at distances of 8 and more: hardly any voxel belongs to a thicker clump."""
    for chunk in chunks.values():
        assert np.mean(thickness(crop(chunk.surface)) > 5) < 0.02


def test_unlabelled_wraps_are_in_the_truth_only(chunks):
    astray = []
    for chunk in chunks.values():
        inner = (slice(14, -14),) * 3
        away = ndimage.distance_transform_edt(crop(chunk.label) != SURFACE)
        label, surface, away = crop(chunk.label)[inner], crop(chunk.surface)[inner], away[inner]
        # A line is drawn outwards of its recto, so a voxel of the truth beside it may be background.
        astray.append(np.mean((label == BACKGROUND)[surface] & (away > 2)[surface]))
    # Little of an unlabelled wrap lies where a label says background: lines that end or stray, of which a chunk may hold one.
    assert np.mean(astray) < 0.05
    assert max(astray) < 0.25
    unlabelled = [np.mean(chunk.label[chunk.surface] == UNLABELLED) for chunk in chunks.values()]
    assert np.mean(unlabelled) > 0.1


def test_a_band_of_background_surrounds_every_labelled_sheet(regular):
    beside = []
    for chunk in regular.values():
        label = crop(chunk.label)
        away = ndimage.distance_transform_edt(label != SURFACE)
        beside.append(label[(away > 0) & (away <= 2)] == BACKGROUND)
        # Beyond the band, what is still background lies between two labelled wraps.
        assert (label[label != SURFACE] == UNLABELLED).any()
    # Nothing is labelled beyond the end of some lines.
    assert np.mean(np.concatenate(beside)) > 0.97


def test_labelled_lines_keep_apart(chunks):
    """Background between two lines is five voxels wide at least, as in real labels."""
    narrow = []
    for chunk in chunks.values():
        label = crop(chunk.label)
        for axis in (1, 2):
            lines = np.moveaxis(label, axis, -1).reshape(-1, label.shape[axis])
            for row in lines[::7]:
                edges = np.flatnonzero(np.diff(row.astype(int)))
                for a, b in itertools.pairwise(edges):
                    if row[a] == row[b + 1] == SURFACE and row[a + 1] == BACKGROUND:
                        narrow.append(b - a < 4)
    assert np.mean(narrow) < 0.02


def test_grey_values_are_those_of_the_scans(chunks):
    for style, chunk in chunks.items():
        grey = crop(chunk.image)
        dark, bright, peak = np.percentile(grey, [5, 90, 100])
        assert 15 < dark < 80, style
        assert 95 < bright < 160, style
        assert peak > 180, style
        assert np.mean(grey == 255) < 0.01, style


def test_styles_differ_in_contrast(chunks):
    spread = {style: np.subtract(*np.percentile(crop(chunk.image), [90, 5])) for style, chunk in chunks.items()}
    assert spread["loose"] > spread["even"] > spread["faint"]


def test_the_recto_is_an_edge_from_dark_to_bright(regular):
    """Papyrus lies outward of its recto: the truth can be learnt from the image."""
    for style, chunk in regular.items():
        image = ndimage.gaussian_filter(chunk.image.astype(np.float32), 1.0)
        slope = ndimage.generic_gradient_magnitude(image, ndimage.sobel)
        inside = crop(chunk.surface)
        assert crop(slope)[inside].mean() > 1.15 * crop(slope)[~inside].mean(), style


def test_grey_alone_does_not_give_the_surface_away(chunks):
    for style, chunk in chunks.items():
        labelled = crop(chunk.label) != UNLABELLED
        grey, truth = crop(chunk.image)[labelled], crop(chunk.label)[labelled] == SURFACE
        levels = np.arange(50, 160, 5)
        dice = [2 * (truth & (grey > level)).sum() / (truth.sum() + (grey > level).sum()) for level in levels]
        # Against calling everything surface: real slices give 1.3 to 2.2.
        assert max(dice) < 2.4 * 2 * truth.mean() / (1 + truth.mean()), style


def test_wraps_of_hard_styles_touch():
    """Wraps come nearer than four voxels to one another."""
    for style in HARD:
        chunk = make_phantom((64, 256, 256), 2, style)
        wide = run_lengths(~crop(chunk.surface), 1)
        assert np.mean(wide[wide > 0] <= 3) > 0.0005, style


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"style": "papal"}, InputValueError, "style must be one of"),
        ({"shape": (-4, 20, 20)}, InputValueError, r"shape\[0\] must be >= 1"),
        ({"shape": (20, 20)}, InputValueError, "shape must have 3 values"),
        ({"shape": (20, 20.0, 20)}, InputTypeError, r"shape\[1\] must be an integer"),
        ({"shape": "abc"}, InputTypeError, "shape must be an integer or 3 integers"),
        ({"seed": -1}, InputValueError, "seed must be >= 0"),
        ({"seed": 1.5}, InputTypeError, "seed must be an integer"),
    ],
)
def test_bad_arguments_of_make_phantom(arguments, error, message):
    with pytest.raises(error, match=message):
        make_phantom(**arguments)


def test_styles_have_their_own_scroll_ids():
    assert list_styles()[0] == "even"
    assert set(list_styles()) | set(REPORT_STYLES) == set(STYLES)
    assert not set(list_styles()) & set(REPORT_STYLES)
    assert len(REGULAR) >= 5
    assert len(HARD) >= 3
    assert len(REPORT_STYLES) == 2
    assert len({style.scroll_id for style in STYLES.values()}) == len(STYLES)


def read_table(path):
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert not rows or list(rows[0]) == ["id", "scroll_id"]
    return {row["id"]: int(row["scroll_id"]) for row in rows}


def stems(folder):
    return {path.stem for path in folder.glob("*.tif")}


def write_small(folder, **changes):
    arguments = {"train": 3, "test": 2, "shape": (12, 20, 16), "seed": 4, "deprecated": 1} | changes
    return write_competition(folder, **arguments)


def test_competition_layout(tmp_path):
    folder, truth = tmp_path / "data", tmp_path / "truth"
    assert write_small(folder, train_styles=["even", "wavy"], test_styles=["faint"], truth_folder=truth) == folder
    train, test = read_table(folder / "train.csv"), read_table(folder / "test.csv")
    kept, gone = stems(folder / "train_images"), stems(folder / "deprecated_train_images")
    assert stems(folder / "train_labels") == kept
    assert len(kept) == 3
    assert stems(folder / "deprecated_train_labels") == gone
    assert len(gone) == 1
    assert set(train) == kept | gone
    assert not kept & gone
    assert set(test) == stems(folder / "test_images")
    assert len(test) == 2
    assert all(name.isdigit() for name in [*train, *test])
    assert not set(train) & set(test)
    assert sorted(train.values()) == sorted([STYLES["even"].scroll_id] * 3 + [STYLES["wavy"].scroll_id])
    assert set(test.values()) == {STYLES["faint"].scroll_id}
    assert stems(truth / "test_labels") == stems(truth / "test_surfaces") == set(test)
    for path in [*folder.glob("*/*.tif"), *truth.glob("*/*.tif")]:
        volume = read_volume(path)
        assert volume.shape == (12, 20, 16)
        assert volume.dtype == np.uint8
    for name in test:
        label, surface = (read_volume(truth / f"test_{kind}/{name}.tif") for kind in ("labels", "surfaces"))
        assert set(np.unique(surface)) <= {0, 1}
        assert set(np.unique(label)) <= {BACKGROUND, SURFACE, UNLABELLED}
    assert not [path for path in tmp_path.rglob("*") if path.suffix not in {".tif", ".csv", ""}]


def test_an_interrupted_competition_is_completed(tmp_path, monkeypatch):
    whole = write_small(tmp_path / "whole", truth_folder=tmp_path / "whole_truth")
    folder, truth = tmp_path / "data", tmp_path / "truth"
    made = []

    def make_two_then_stop(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(arguments)
        return make_phantom(*arguments)

    monkeypatch.setattr(phantom_package.folder, "make_phantom", make_two_then_stop)
    with pytest.raises(KeyboardInterrupt):
        write_small(folder, truth_folder=truth)
    monkeypatch.undo()
    assert not (folder / "train.csv").exists()
    assert len(stems(folder / "train_images")) == 2
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.tif")}
    # Half a pair is a state that a kill can leave.
    lost = min(folder.glob("train_labels/*.tif"))
    lost.unlink()
    del kept[lost]
    write_small(folder, truth_folder=truth)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for ours, reference in ((folder, whole), (truth, tmp_path / "whole_truth")):
        files = sorted(path.relative_to(reference) for path in reference.rglob("*.*"))
        assert files == sorted(path.relative_to(ours) for path in ours.rglob("*.*"))
        for name in files:
            assert (ours / name).read_bytes() == (reference / name).read_bytes()


def test_a_complete_competition_is_not_made_again(tmp_path, monkeypatch):
    write_small(tmp_path)
    monkeypatch.setattr(phantom_package.folder, "make_phantom", None)
    write_small(tmp_path)


def test_another_phantom_or_real_data_is_not_mixed_in(tmp_path):
    (tmp_path / "train_images").mkdir()
    write_volume(tmp_path / "train_images" / "1407735.tif", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(InputValueError, match=r"got .*1407735\.tif"):
        write_small(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train_images"]


def test_an_empty_competition_has_tables_with_headings(tmp_path):
    write_small(tmp_path, train=0, test=0, deprecated=0)
    assert (tmp_path / "train.csv").read_text() == (tmp_path / "test.csv").read_text() == "id,scroll_id\n"


def test_progress_sees_every_chunk(tmp_path):
    seen = []

    def record(iterable, **keywords):
        seen.append(keywords["total"])
        return iterable

    write_small(tmp_path, progress=record)
    assert seen == [6]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"train": -1}, InputValueError, "train must be >= 0"),
        ({"test": 1.5}, InputTypeError, "test must be an integer"),
        ({"deprecated": -2}, InputValueError, "deprecated must be >= 0"),
        ({"seed": -1}, InputValueError, "seed must be >= 0"),
        ({"shape": 0}, InputValueError, r"shape\[0\] must be >= 1"),
        ({"train_styles": ["nobody"]}, InputValueError, "train_styles must be one of"),
        ({"test_styles": []}, InputValueError, "test_styles must name one style at least"),
        ({"test_styles": "even"}, InputTypeError, "test_styles must be a sequence of style names"),
    ],
)
def test_bad_arguments_of_write_competition(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        write_small(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()
