import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vesuvius_kit.checks import InputError
from vesuvius_kit.data.competition import Chunk
from vesuvius_kit.io.record import EpochRecord, append_record
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.report import (
    draw_curves,
    draw_overlay,
    survey_scrolls,
    survey_to_text,
    write_overview_page,
    write_prediction_page,
    write_slices_page,
    write_survey_page,
    write_training_page,
)
from vesuvius_kit.report.pages import BOTH, ONLY_PREDICTED, ONLY_TRUE, choose_place, save_figure
from vesuvius_kit.report.survey import measure_thickness


def log_of(epochs):
    return [
        EpochRecord(
            epoch,
            rate=0.01,
            train={"loss": 0.5, "dice": 0.4, "gradient_norm": 0.1, "skipped_steps": 0},
            validation={"loss": float("nan") if epoch == 1 else 0.6},
            score={"score": 0.4, "surface_dice": 0.7} if epoch == 2 else None,
            interventions=[{"epoch": epoch, "multiple": 2.0}] if epoch == 1 else [],
        )
        for epoch in range(epochs)
    ]


def write_log(folder, log):
    folder.mkdir(exist_ok=True)
    for record in log:
        append_record(folder / "log.jsonl", record)


def curves_of(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_a_report_is_a_picture_with_all_three_colours(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(40, 130, (40, 44, 48)).astype(np.uint8)
    truth = np.zeros(image.shape, bool)
    mask = np.zeros(image.shape, bool)
    truth[:, 10] = mask[:, 11] = True  # found, one voxel away
    truth[:, 20] = True  # missed
    mask[:, 35] = True  # invented
    label = np.where(truth, 1, 0).astype(np.uint8)
    path = tmp_path / "report.png"
    write_overview_page(path, image, mask, truth, label, log_of(3), "a title", ["line one", "line two"])
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    assert len(pixels) > 500_000
    for colour in (BOTH, ONLY_PREDICTED, ONLY_TRUE):
        near = np.abs(pixels - np.round(np.array(colour) * 255)).max(axis=1) <= 2
        assert near.sum() > 100, colour


def test_overlay_colours_by_tolerance():
    class Recorder:
        def imshow(self, colours, **_):
            self.colours = colours

        def set_xticks(self, _):
            pass

        set_yticks = set_xticks

    axes = Recorder()
    mask, truth = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    mask[2], truth[4], truth[8] = True, True, True
    draw_overlay(axes, np.full((9, 9), 100), mask, truth, tolerance=2)
    np.testing.assert_allclose(axes.colours[2, 4], BOTH)
    np.testing.assert_allclose(axes.colours[8, 4], ONLY_TRUE)
    draw_overlay(axes, np.full((9, 9), 100), mask, truth, tolerance=1)
    np.testing.assert_allclose(axes.colours[2, 4], ONLY_PREDICTED)


def test_shapes_must_agree(tmp_path):
    volume = np.zeros((4, 5, 6), np.uint8)
    with pytest.raises(InputError, match="same shape"):
        write_overview_page(tmp_path / "x.png", volume, volume[:3] > 0, volume > 0, volume, log_of(1), "", [])


def test_thickness_of_slabs_of_known_thickness():
    mask = np.zeros((20, 20, 20), bool)
    mask[3] = True
    mask[8:10] = True
    mask[14:19] = True
    thickness = measure_thickness(mask)
    assert thickness.tolist() == [1] * 400 + [2] * 800 + [5] * 2000
    assert measure_thickness(mask.transpose(2, 1, 0)).mean() == thickness.mean()
    assert measure_thickness(np.zeros((3, 4, 5), bool)).shape == (0,)
    assert measure_thickness(np.ones((3, 4, 5), bool)).tolist() == [3] * 60
    with pytest.raises(InputError, match="mask"):
        measure_thickness(mask.astype(np.uint8))


def test_thickness_equals_counting_by_hand():
    mask = np.random.default_rng(0).random((7, 9, 8)) < 0.6

    def run_through(voxel, axis):
        length = 1
        for step in (-1, 1):
            place = list(voxel)
            place[axis] += step
            while 0 <= place[axis] < mask.shape[axis] and mask[tuple(place)]:
                length += 1
                place[axis] += step
        return length

    expected = [min(run_through(voxel, axis) for axis in range(3)) for voxel in np.argwhere(mask)]
    assert measure_thickness(mask).tolist() == expected


@pytest.fixture
def scrolls(tmp_path):
    """Two chunks of scroll 7 and one of scroll 8: half background of grey 50, a surface of grey 90, the rest unlabelled."""
    chunks = []
    for number, scroll in enumerate(("7", "7", "8")):
        image = np.full((10, 10, 10), 50 + 10 * number, np.uint8)
        label = np.zeros(image.shape, np.uint8)
        label[5:] = 2
        label[2:4], image[2:4] = 1, 90
        paths = [tmp_path / f"{number}_{name}.tif" for name in ("image", "label")]
        for path, volume in zip(paths, (image, label)):
            write_volume(path, volume)
        chunks.append(Chunk(str(number), scroll, *paths))
    return chunks


def test_a_survey_counts_by_scroll(scrolls):
    seven, eight = survey_scrolls(scrolls)
    assert (seven.scroll_id, len(seven.chunks), eight.scroll_id, len(eight.chunks)) == ("7", 2, "8", 1)
    assert seven.label_counts.tolist() == [600, 400, 1000]
    assert eight.label_shares.tolist() == [0.3, 0.2, 0.5]
    assert seven.grey_counts[0, 50] == seven.grey_counts[0, 60] == 300
    assert seven.grey_counts[1, 90] == 400
    assert seven.thickness_counts[2] == 400
    assert seven.thickness_counts.sum() == 400
    (one, _) = survey_scrolls(scrolls, volumes_per_scroll=1)
    assert [chunk.id for chunk in one.chunks] == ["0"]
    row = survey_to_text([eight]).splitlines()[1].split()
    assert row == ["8", "1", "30.0%", "20.0%", "50.0%", "2.00", "70", "90"]


def test_a_survey_refuses_what_it_cannot_read(scrolls):
    with pytest.raises(InputError, match="at least one"):
        survey_scrolls([])
    with pytest.raises(InputError, match="volumes_per_scroll"):
        survey_scrolls(scrolls, volumes_per_scroll=0)
    write_volume(scrolls[0].label_path, np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match="image's shape"):
        survey_scrolls(scrolls)


def test_a_survey_of_a_scroll_without_surface_is_drawn_all_the_same(scrolls, tmp_path):
    write_volume(scrolls[2].label_path, np.zeros((10, 10, 10), np.uint8))
    surveys = survey_scrolls(scrolls)
    assert "nan" in survey_to_text(surveys)
    for path in (
        write_survey_page(tmp_path / "survey.png", surveys),
        write_slices_page(tmp_path / "slices.png", [scrolls[0], scrolls[2]]),
    ):
        with Image.open(path) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 30


def test_the_slice_with_much_to_see_nearest_to_the_middle_is_chosen():
    mask = np.zeros((11, 4, 4), bool)
    assert choose_place(mask, 0) == 5
    mask[1] = True
    assert choose_place(mask, 0) == 1
    mask[8, :3] = True  # 12 of 16: enough
    assert choose_place(mask, 0) == 8
    mask[5, 0] = True  # 4 of 16: too little
    assert choose_place(mask, 0) == 8


def colours_of(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    return {name: (np.abs(pixels - np.round(np.array(colour) * 255)).max(axis=1) <= 2).sum()
            for name, colour in (("both", BOTH), ("predicted", ONLY_PREDICTED), ("true", ONLY_TRUE))}  # fmt: skip


def test_a_prediction_is_painted_and_judged_only_where_it_is_labelled(tmp_path):
    image = np.random.default_rng(0).integers(40, 130, (30, 30, 30)).astype(np.uint8)
    mask, label = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    mask[:, 10] = label[:, 10] = 1
    plain = colours_of(write_prediction_page(tmp_path / "plain.png", image, mask, "plain"))
    assert plain["both"] > 1000
    assert plain["predicted"] == plain["true"] == 0
    mask[:, 20] = 1
    label[:, 16:] = 2
    judged = colours_of(write_prediction_page(tmp_path / "judged.png", image, mask, "judged", label=label))
    assert judged["both"] > 1000
    assert judged["predicted"] < 200, "only the legend: it was predicted where nothing is labelled"
    label[:, 16:] = 0
    invented = colours_of(write_prediction_page(tmp_path / "invented.png", image, mask, "invented", label=label))
    assert invented["predicted"] > 1000


def test_the_curves_are_those_of_the_log():
    loss_axes, rate_axes = Figure().subplots(1, 2)
    draw_curves(loss_axes, rate_axes, log_of(3))
    losses = curves_of(loss_axes)
    assert losses["training"] == [[0, 0.5], [1, 0.5], [2, 0.5]]
    assert losses["validation"] == [[0, 0.6], [2, 0.6]], "a loss that is no number is left out"
    assert [epoch for epoch, _ in losses["no number"]] == [1]
    assert (losses["validation score"], losses["validation surface dice"]) == ([[2, 0.4]], [[2, 0.7]])
    assert loss_axes.get_ylim() == (0, 1)
    rates = curves_of(rate_axes)
    assert rates["rate"] == [[0, 0.01], [1, 0.01], [2, 0.01]]
    assert rates["intervention"] == [[1, 0.01]]
    assert rates["5 x base"] == [[0, 0.05], [1, 0.05]], "across the whole panel"


@pytest.mark.parametrize(
    "log",
    [
        pytest.param([EpochRecord(0, train={"loss": 1.0}, validation={"loss": 1.0})], id="no rate"),
        pytest.param([EpochRecord(0, interventions=[{"multiple": 2.0}]), EpochRecord(1, rate=0.1)], id="gap"),
        pytest.param([EpochRecord(7, rate=0.1, train={"loss": -1.0})], id="negative loss"),
    ],
)
def test_the_curves_of_a_log_with_gaps_are_drawn(log, tmp_path):
    figure = Figure()
    axes = figure.subplots(1, 2)
    draw_curves(*axes, log)
    save_figure(tmp_path / "curves.png", figure)
    assert axes[0].get_ylim()[0] <= min(0, log[0].train.get("loss", 0))


def test_the_curves_of_every_fold_are_drawn(tmp_path):
    with pytest.raises(InputError, match="fold_"):
        write_training_page(tmp_path / "page.png", tmp_path)
    for fold in (0, 1):
        write_log(tmp_path / f"fold_{fold}", log_of(3))
    with Image.open(write_training_page(tmp_path / "page.png", tmp_path)) as picture:
        assert picture.size[1] > 500
    (tmp_path / "fold_1" / "log.jsonl").write_text("")
    with pytest.raises(InputError, match="fold_1"):
        write_training_page(tmp_path / "page.png", tmp_path)
    (tmp_path / "fold_1" / "log.jsonl").write_text("{half")
    with pytest.raises(InputError, match="line 1"):
        write_training_page(tmp_path / "page.png", tmp_path)
