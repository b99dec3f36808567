import itertools

import numpy as np
import pytest
import torch

from vesuvius_kit.checks import InputError
from vesuvius_kit.inference.predict import predict_volume
from vesuvius_kit.inference.tta import VIEWS, choose_views, count_views
from vesuvius_kit.models.rules import PredictionRules

CUBE = torch.arange(4**3, dtype=torch.float32).reshape(1, 1, 4, 4, 4)
CPU = {"device": "cpu", "dtype": torch.float32}


def code_of(windows):
    return tuple(windows.flatten().tolist())


@pytest.mark.parametrize(
    ("tta", "count"), [("auto", 1), ("none", 1), ("mirror4", 4), ("mirror", 8), ("seven", 7), ("cubic", 48)]
)
def test_views_are_distinct_and_inverted_exactly(tta, count):
    views = choose_views(tta)
    assert len(views) == count_views(tta) == count
    assert len({code_of(view.turn(CUBE)) for view in views}) == count
    assert torch.equal(views[0].turn(CUBE), CUBE)
    box = torch.rand(2, 3, 2, 5, 7)
    for view in views:
        assert torch.equal(view.turn_back(view.turn(CUBE)), CUBE)
        assert torch.equal(view.turn_back(view.turn(box)), box)


def test_the_48_are_all_symmetries_of_the_cube():
    cube = CUBE[0, 0].numpy()
    expected = set()
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turned = cube.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
            expected.add(tuple(turned.flatten().tolist()))
    assert {code_of(view.turn(CUBE)) for view in VIEWS["cubic"]} == expected


def test_the_mirrors_are_flips_and_the_seven_are_flips_and_quarter_turns():
    flips = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)]
    assert [code_of(view.turn(CUBE)) for view in VIEWS["mirror"]] == [code_of(CUBE.flip(axes)) for axes in flips]
    in_plane = [(), (3,), (4,), (3, 4)]
    assert [code_of(view.turn(CUBE)) for view in VIEWS["mirror4"]] == [code_of(CUBE.flip(axes)) for axes in in_plane]
    seven = [CUBE, CUBE.flip(2), CUBE.flip(3), CUBE.flip(4), *(torch.rot90(CUBE, k, (3, 4)) for k in (1, 2, 3))]
    assert [code_of(view.turn(CUBE)) for view in VIEWS["seven"]] == [code_of(turned) for turned in seven]


def test_auto_flips_the_axes_of_the_training():
    assert choose_views("auto", (0, 2)) == [view for view in VIEWS["mirror"] if 1 not in view.flips]
    assert choose_views("none", (0, 1, 2)) == VIEWS["none"]
    asked = []

    def model(image):
        asked.append(code_of(image))
        return image

    volume = np.arange(64, dtype=np.float32).reshape(4, 4, 4) / 64
    predict_volume(model, volume, window=4, rules=PredictionRules(mirror_axes=(1,)), **CPU)
    image = torch.from_numpy(volume)[None, None]
    assert asked == [code_of(image), code_of(image.flip(3))]


def test_a_window_that_a_view_would_reshape_is_refused():
    volume = np.ones((8, 8, 8), np.float32)
    for tta, window, shape in (("seven", (8, 8, 4), "square in y and x"), ("cubic", (4, 8, 8), "a cube")):
        with pytest.raises(InputError, match=shape):
            predict_volume(lambda image: image, volume, window=window, tta=tta, **CPU)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_views_are_averaged_as_the_rules_say(average):
    def model(image):
        return image - image.roll(1, dims=-1)

    volume = np.random.default_rng(0).normal(0, 3, (8, 8, 8)).astype(np.float32)
    image = torch.from_numpy(volume)[None, None].double()
    turned = [view.turn_back(model(view.turn(image))) for view in VIEWS["cubic"]]
    if average == "logits":
        expected = torch.stack(turned).mean(0).sigmoid()
    else:
        expected = torch.stack([logits.sigmoid() for logits in turned]).mean(0)
    result = predict_volume(model, volume, window=8, tta="cubic", rules=PredictionRules(average=average), **CPU)
    np.testing.assert_allclose(result, expected[0, 0].numpy(), atol=1e-6)
