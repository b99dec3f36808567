"""What the page holds of a volume can be unpacked again."""

import base64
import io
import zlib

import numpy as np
import pytest
from helpers.explained_runs import make_volume
from PIL import Image

from vesuvius_kit.report.errors import judge_voxels
from vesuvius_kit.report.meshes import MOST_TRIANGLES, STEPS_A_VOXEL, make_meshes
from vesuvius_kit.report.viewer import NOT_JUDGED, OTHERS, ViewedVolume, choose_shown, pack_volume
from vesuvius_kit.voxel.components import label_components

ROOM = 10_000_000


def unpack(packed, layer):
    """A layer as the browser sees it."""
    text, shape = packed.blobs[layer], packed.facts["shape"]
    if layer in ("image", "probability"):
        planes = [np.asarray(Image.open(io.BytesIO(base64.b64decode(line))).convert("L")) for line in text.split("\n")]
        return np.stack(planes)
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape)


@pytest.fixture(scope="module")
def volume():
    image, probability, label, prediction = make_volume()
    return ViewedVolume("7", prediction, image, probability, label, "34117")


@pytest.fixture(scope="module")
def packed(volume):
    return pack_volume(volume, ROOM)


def test_sheets_errors_and_pictures_come_back(packed, volume):
    prediction, label = unpack(packed, "prediction"), unpack(packed, "label")
    np.testing.assert_array_equal(prediction > 0, volume.prediction)
    np.testing.assert_array_equal(label == NOT_JUDGED, volume.label == 2)
    np.testing.assert_array_equal((label > 0) & (label < OTHERS), volume.label == 1)
    np.testing.assert_array_equal(prediction == NOT_JUDGED, volume.prediction & (volume.label == 2))
    np.testing.assert_array_equal(unpack(packed, "errors"), judge_voxels(volume.prediction, volume.label))
    assert np.abs(unpack(packed, "probability") / 255 - volume.probability).mean() < 0.02
    assert np.corrcoef(unpack(packed, "image").ravel(), volume.image.ravel())[0, 1] > 0.97
    assert packed.facts["quality"] == {"image": 75, "probability": 75}
    assert packed.n_bytes < ROOM


def test_sheets_are_numbered_by_size(packed, volume):
    numbers = unpack(packed, "label")
    sizes = np.bincount(numbers[(numbers > 0) & (numbers < OTHERS)])[1:].tolist()
    assert sizes == sorted(sizes, reverse=True) == packed.facts["sheets"]["label"]
    components, count = label_components(volume.label == 1)
    assert len(sizes) == count
    assert len({(a, b) for a, b in zip(numbers[components > 0], components[components > 0])}) == count


def test_more_sheets_than_numbers_are_others():
    prediction = np.zeros((2, 64, 64), bool)
    prediction[0, ::3, ::3] = True
    packed = pack_volume(ViewedVolume("1", prediction), ROOM)
    numbers = unpack(packed, "prediction")
    assert set(np.unique(numbers)) == set(range(OTHERS + 1))
    assert (numbers > 0).sum() == prediction.sum() == 484


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 5), (7, 1, 3), (5, 6, 1)])
@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("value", [None, 0, 1, 2])
def test_volumes_of_any_shape_full_and_empty(shape, fill, value):
    label = None if value is None else np.full(shape, value, np.uint8)
    image = np.full(shape, 300, np.uint16)
    packed = pack_volume(ViewedVolume("1", np.full(shape, fill), image, np.zeros(shape, np.float32), label), ROOM)
    assert (unpack(packed, "prediction") > 0).all() == fill
    assert unpack(packed, "image").shape == shape
    assert all(0 <= at < edge for at, edge in zip(packed.facts["start"], shape))


def test_pictures_are_as_good_as_fits_and_left_out_where_nothing_does(volume):
    rng = np.random.default_rng(0)
    shape = volume.prediction.shape
    noise = ViewedVolume("7", volume.prediction, rng.integers(0, 256, shape), rng.random(shape))
    best = pack_volume(noise, ROOM)
    assert best.facts["quality"]["image"] == 75
    fitting = pack_volume(noise, best.n_bytes // 2)
    assert fitting.n_bytes <= best.n_bytes // 2
    assert 0 < fitting.facts["quality"]["image"] < 75
    none = pack_volume(noise, 1000)
    assert none.left_out == ("image", "probability")
    assert none.facts["layers"] == ["prediction"]


def test_grey_values_of_any_type_fill_the_eight_bits(volume):
    for image in (volume.image.astype(np.uint16) * 200, volume.image.astype(np.float32) / 1e4 - 3):
        grey = unpack(pack_volume(ViewedVolume("7", volume.prediction, image), ROOM), "image")
        assert np.corrcoef(grey.ravel(), volume.image.ravel())[0, 1] > 0.97
        assert grey.max() > 230


def test_the_first_volume_is_shown_and_others_as_they_fit():
    shapes = [("a", (10, 10, 10)), ("b", (10, 10, 10)), ("c", (10, 10, 10))]
    assert list(choose_shown(shapes, 3, 5000)) == ["a", "b", "c"]
    assert list(choose_shown(shapes, 2, 5000)) == ["a", "b"]
    assert list(choose_shown(shapes, 3, 2000)) == ["a", "b"]
    assert list(choose_shown(shapes, 3, 10)) == ["a"]
    assert list(choose_shown([], 3, 10)) == []


def test_meshes_lie_on_their_sheets_and_are_small():
    sheets = np.zeros((60, 61, 62), np.int32)
    sheets[5:55, 10:13, 5:55] = 1
    sheets[5:55, 30:33, 5:45] = 2
    for number in range(3, 25):
        sheets[:4, 50:58, 2 * number] = number
    pieces, content, undrawn = make_meshes(sheets)
    assert [piece.sheet for piece in pieces] == [1, 2]  # the others have under a hundred voxels
    assert undrawn == 22
    n_vertices = sum(piece.n_vertices for piece in pieces)
    n_triangles = sum(piece.n_triangles for piece in pieces)
    assert n_triangles < MOST_TRIANGLES
    vertices = np.frombuffer(content, "<u2", 3 * n_vertices).reshape(-1, 3) / STEPS_A_VOXEL
    start = -(-vertices.size * 2 // 4) * 4
    triangles = np.frombuffer(content, "<u4", offset=start).reshape(-1, 3)
    assert len(triangles) == n_triangles
    first = pieces[0]
    x, y, z = vertices[: first.n_vertices].T
    assert np.abs([z.min() - 5, z.max() - 54, x.min() - 5, x.max() - 54]).max() <= 2.5
    assert y.min() > 8
    assert y.max() < 15
    assert triangles[: first.n_triangles].max() == first.n_vertices - 1
    # No triangle twice, none without an area.
    ordered = np.sort(triangles[: first.n_triangles], axis=1)
    assert len(np.unique(ordered, axis=0)) == len(ordered)
    assert (np.diff(ordered, axis=1) > 0).all()


def test_small_sheets_are_one_mesh():
    sheets = np.zeros((40, 40, 80), np.int32)
    for number in range(1, 20):
        sheets[5:35, 5:35, 4 * number : 4 * number + 2] = number
    pieces, _, undrawn = make_meshes(sheets)
    assert [piece.sheet for piece in pieces] == [*range(1, 17), 0]
    assert undrawn == 0


def test_a_rough_surface_is_made_coarser_until_it_is_small():
    sheets = (np.random.default_rng(0).random((100, 100, 100)) < 0.5).astype(np.int32)
    (piece,), _, _ = make_meshes(sheets)
    assert 0 < piece.n_triangles <= MOST_TRIANGLES
