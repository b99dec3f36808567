"""What the page tells of a run, and what it refuses in one line."""

import json
import re
import zipfile

import numpy as np
import pytest
from helpers.explained_runs import BRIDGE, HOLE, make_volume, write_log, write_run, write_tuning

import vesuvius_kit as vk
from vesuvius_kit.checks import InputError
from vesuvius_kit.cli import main
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.report import Places, write_report
from vesuvius_kit.report.html import format_count, format_duration


def read_data(page):
    """What the scripts of a page read, and its text without scripts and style."""
    text = page.read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return data, re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("whole") / "run_a")


@pytest.fixture(scope="module")
def whole(run):
    return write_report(run.parent / "report.html", run, figures=run.parent / "figures")


def test_the_whole_page(whole, run):
    data, text = read_data(whole)
    (volume,) = data["volumes"]
    assert volume["layers"] == ["image", "probability", "prediction", "label", "errors"]
    assert volume["shape"] == [64, 60, 56]
    score = vk.leaderboard_score(make_volume()[3], make_volume()[2]).score
    assert f"{score:.3f}" in text
    # The probability's own `public` mask is the baseline.
    baseline = vk.leaderboard_score(vk.make_mask(make_volume()[1], "public"), make_volume()[2]).score
    assert f"{score - baseline:+.3f} against public" in text
    assert "over-fitting" in text
    assert data["training"]["fold_0"]["marks"][0]["text"] == "rate raised to 2 times its base"
    assert [mark["kind"] for mark in data["training"]["fold_0"]["marks"]] == ["raise", "rollback"]
    assert "Scores of volumes without a label: 8." in text
    assert "What each repair step changed" in text
    assert {path.name for path in (run.parent / "figures").iterdir()} == {"training.png", "scores.png", "errors.png"}


def test_the_errors_are_where_they_were_put(whole):
    (volume,) = read_data(whole)[0]["volumes"]
    (merged,) = [seam for seam in volume["seams"] if seam["kind"] == "merged"]
    assert np.abs(np.subtract(merged["place"], BRIDGE)).max() <= 3
    (tunnel,) = [feature for feature in volume["features"] if feature["kind"] == "tunnel"]
    assert np.abs(np.subtract(tunnel["place"], HOLE)).max() <= 2
    # A predicted sheet that two labelled ones lie in is told with both.
    joined = {row[1] for row in volume["overlaps"] if row[0] == merged["sheet"]}
    assert joined == set(merged["others"])


def test_nothing_on_the_page_points_to_a_network(whole):
    text = whole.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:link|img|script)[^>]*(?:href|src)=\"(?!data:)", text)


@pytest.mark.parametrize(
    ("without", "needs"),
    [
        ("log", "Training curves"),
        ("images", "The image behind the slices"),
        ("labels", "Scores and errors"),
        ("probabilities", "Probability, what each repair step changed"),
    ],
)
def test_what_is_not_there_is_left_out_and_named(tmp_path, without, needs):
    folder = write_run(tmp_path / "run", **{without: False})
    data, text = read_data(write_report(tmp_path / "page.html", folder))
    assert needs in text
    layers = data["volumes"][0]["layers"]
    assert ("image" in layers) == (without != "images")
    assert ("errors" in layers) == ("label" in layers) == (without != "labels")
    assert ("probability" in layers) == (without != "probabilities")
    assert bool(data["training"]) == (without != "log")


def test_a_run_of_training_alone_and_a_fold_alone(tmp_path):
    write_log(tmp_path / "run" / "fold_3")
    for place in (tmp_path / "run", tmp_path / "run" / "fold_3"):
        data, text = read_data(write_report(tmp_path / "page.html", place))
        assert (list(data["training"]), data["volumes"]) == (["fold_3"], [])
        assert "plotly" not in text
    assert (tmp_path / "page.html").stat().st_size < 200_000


def test_masks_are_made_of_probabilities_by_the_pipeline_named(tmp_path):
    folder = write_run(tmp_path / "run", masks=False, log=False)
    label = make_volume()[2]
    probability = vk.load_probability(folder / "probabilities" / "7.npy")
    for pipeline in ("public", "raw", None):
        _, text = read_data(write_report(tmp_path / "page.html", folder, pipeline=pipeline))
        mask = vk.make_mask(probability, pipeline) if pipeline else vk.make_mask(probability)
        assert f"Score {vk.leaderboard_score(mask, label).score:.3f}" in text


def test_a_submission_archive_its_record_and_its_labels_elsewhere(tmp_path):
    image, _, label, prediction = make_volume()
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for place in (folder, elsewhere / "labels", elsewhere / "images"):
        place.mkdir(parents=True)
    write_volume(tmp_path / "7.tif", prediction.astype(np.uint8))
    with zipfile.ZipFile(folder / "submission.zip", "w") as archive:
        archive.write(tmp_path / "7.tif", "7.tif")
    (folder / "submission_masks").mkdir()
    record = {
        "kit": "0.1.0",
        "budget_seconds": 3600,
        "processes": 1,
        "plans": [{"members": [[0, "auto"]], "overlap": 0.5}, {"members": [], "overlap": 0.0}],
        "warnings": ["the disk is nearly full"],
        "volumes": {"7": {"mask": "network", "what": "1 network", "seconds": {"network": 61.5}, "causes": []}},
    }
    (folder / "submission_masks" / "run.json").write_text(json.dumps(record))
    write_volume(elsewhere / "labels" / "7.tif", label)
    write_volume(elsewhere / "images" / "7.tif", image)
    places = Places(images=elsewhere / "images", labels=elsewhere / "labels")
    data, text = read_data(write_report(tmp_path / "page.html", folder, places=places))
    assert data["volumes"][0]["layers"] == ["image", "prediction", "label", "errors"]
    for told in ("budget 1 h 0 min", "1 min 2 s", "ridge filter", "the disk is nearly full"):
        assert told in text


def test_two_runs_are_compared(tmp_path, run):
    folder = write_run(tmp_path / "run_b", labels=False, images=False, probabilities=False)
    write_volume(folder / "masks" / "7.tif", (make_volume()[2] == 1).astype(np.uint8))
    (folder / "fold_0" / "last").mkdir()
    data, text = read_data(write_report(tmp_path / "page.html", folder, run))
    assert data["names"] == ["run_b", "run_a"]
    assert data["training"].keys() == data["compared"].keys() == {"fold_0"}
    # Labels of either count for both.
    score = vk.leaderboard_score(make_volume()[3], make_volume()[2]).score
    assert "Score 1.000" in text
    assert f"{1 - score:+.3f} against run_a" in text


def test_a_tuning_alone_and_beside_a_run(tmp_path):
    _, text = read_data(write_report(tmp_path / "page.html", write_tuning(tmp_path / "tuning")))
    for told in ("+0.040", "-0.010 to +0.070 at 90 %", "the gain rests on one scroll", "34117", "2 trials complete"):
        assert told in text
    folder = write_run(tmp_path / "run", probabilities=False)
    data, text = read_data(write_report(tmp_path / "page.html", folder, places=Places(tuning=tmp_path / "tuning")))
    assert data["tuning"]["slices"].keys() == {"t_low", "pipeline"}
    assert "Tuning +0.040" in text


def test_out_of_fold_predictions_are_averaged_with_the_tuned_weights(tmp_path):
    _, probability, label, _ = make_volume()
    folder = tmp_path / "run"
    groups = {"a": probability, "b": np.zeros_like(probability)}
    for name, values in groups.items():
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "7.npy", values.astype(np.float16))
    index = {
        "format": 1,
        "predict": {},
        "groups": [{"name": name, "weights": [name * 16]} for name in groups],
        "volumes": {"7": {"scroll": "34117", "networks": {name: [name * 16] for name in groups}}},
    }
    (folder / "out_of_fold.json").write_text(json.dumps(index))
    (tmp_path / "labels").mkdir()
    write_volume(tmp_path / "labels" / "7.tif", label)

    def page_of(**places):
        given = Places(labels=tmp_path / "labels", **places)
        return read_data(write_report(tmp_path / "page.html", folder, places=given, pipeline="raw"))[1]

    half = vk.leaderboard_score(vk.make_mask(probability / 2, "raw"), label).score
    assert f"Score {half:.3f}" in page_of()
    assert "34117" in page_of()
    tuning = write_tuning(tmp_path / "tuning") / "tuning.json"
    content = json.loads(tuning.read_text())
    content["tuned"]["settings"] = {"weights.a": 1.0, "weights.b": 0.0}
    tuning.write_text(json.dumps(content))
    whole = vk.leaderboard_score(vk.make_mask(probability, "raw"), label).score
    assert whole != half
    assert f"Score {whole:.3f}" in page_of(tuning=tuning)


def complaint(capsys, *words):
    """The one line that the command says; it ends with 2."""
    assert main(["report", *map(str, words)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vesuvius-kit:")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def broken(tmp_path):
    return write_run(tmp_path / "run")


def test_an_empty_or_missing_folder_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    output = ("--output", tmp_path / "page.html")
    assert "run must hold a training log" in complaint(capsys, tmp_path / "empty", *output)
    assert "run must be an existing folder" in complaint(capsys, tmp_path / "nowhere", *output)
    assert not (tmp_path / "page.html").exists()


def test_an_unreadable_log_is_refused(broken, tmp_path, capsys):
    log = broken / "fold_0" / "log.jsonl"
    log.write_text(log.read_text() + "\x00 no epoch\n")
    assert "line 31" in complaint(capsys, broken, "--output", tmp_path / "page.html")
    log.write_text("")
    assert "at least one epoch" in complaint(capsys, broken, "--output", tmp_path / "page.html")


def test_a_volume_without_a_label_is_refused_where_labels_were_named(broken, tmp_path, capsys):
    words = (broken, "--labels", broken / "labels", "--output", tmp_path / "page.html")
    assert "volume 8 must have a label" in complaint(capsys, *words, "--volumes", "8")
    (tmp_path / "other").mkdir()
    write_volume(tmp_path / "other" / "9.tif", make_volume()[2])
    words = (broken, "--labels", tmp_path / "other", "--output", tmp_path / "page.html")
    assert "must have a label" in complaint(capsys, *words)


@pytest.mark.parametrize("part", ["labels", "images", "probabilities", "masks"])
def test_volumes_of_two_shapes_are_refused(broken, tmp_path, capsys, part):
    if part == "probabilities":
        np.save(broken / part / "7.npy", make_volume()[1][:50])
    else:
        write_volume(broken / part / "7.tif", make_volume()[0][:50] // 200)
    line = complaint(capsys, broken, "--output", tmp_path / "page.html")
    assert "volume 7 must have the same shape" in line
    assert "(50, 60, 56)" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--volumes", "11"], "volumes must have a mask or a probability, among 7, 8, got 11"),
        (["--pipeline", "none"], "pipeline must be a YAML file"),
        (["--masks", "{empty}"], "masks must hold at least one"),
        (["--labels", "{empty}"], "labels must hold at least one"),
        (["--probabilities", "{empty}"], "probabilities must hold at least one"),
        (["--tuning", "{empty}"], "tuning must be an existing file"),
        (["--data", "{empty}"], "must hold train.csv"),
    ],
)
def test_options_that_lead_nowhere_are_refused(broken, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    words = [word.format(empty=tmp_path / "empty") for word in words]
    assert message in complaint(capsys, broken, "--output", tmp_path / "page.html", *words)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tuning.json", "{", "must hold JSON"),
        ("tuning.json", "[]", "must hold a JSON object"),
        ("tuning.json", '{"tuned": 3}', "what tune writes"),
        ("run.json", '{"volumes": {"7": {"seconds": {"repair": "long"}}}}', "what submit writes"),
        ("summary.json", '{"rows": [{"method": "network"}]}', "must hold rows"),
    ],
)
def test_files_that_the_kit_did_not_write_are_refused(broken, tmp_path, capsys, name, content, message):
    (broken / name).write_text(content)
    assert message in complaint(capsys, broken, "--output", tmp_path / "page.html")


def test_an_output_that_cannot_be_written_is_found_before_the_work(run, tmp_path, capsys):
    assert "must exist" in complaint(capsys, run, "--output", tmp_path / "no" / "page.html")
    assert "must be a file" in complaint(capsys, run, "--output", tmp_path)


def test_a_damaged_mask_in_an_archive_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "submission.zip", "w") as archive:
        archive.writestr("7.tif", b"no picture")
    with pytest.raises(InputError, match=r"mask\.tif|7\.tif"):
        write_report(tmp_path / "page.html", tmp_path)


def test_numbers_as_a_person_reads_them():
    assert [format_duration(seconds) for seconds in (0, 0.123, 9.99, 59.6, 75, 7265)] == [
        "0 s",
        "0.12 s",
        "10 s",
        "1 min 0 s",
        "1 min 15 s",
        "2 h 1 min",
    ]
    assert format_count(1234567) == "1\u202f234\u202f567"


def test_masks_and_predictions_of_other_volumes_are_told_apart(tmp_path):
    """As in a demo: a submission of test chunks, and out-of-fold predictions of training chunks."""
    folder = write_run(tmp_path / "run", log=False)
    for name in ("images", "labels"):
        (folder / name / "9.tif").write_bytes((folder / name / "7.tif").read_bytes())
    (folder / "probabilities" / "7.npy").rename(folder / "probabilities" / "9.npy")
    data, text = read_data(write_report(tmp_path / "page.html", folder))
    score = vk.leaderboard_score(make_volume()[3], make_volume()[2]).score
    made = vk.leaderboard_score(vk.make_mask(make_volume()[1]), make_volume()[2]).score
    assert f"Score {score:.3f} mean of 1 volume: " in text
    assert re.search(rf"masks made of the probabilities volume .* 9 {made:.3f}", text)
    assert [volume["id"] for volume in data["volumes"]] == ["7", "9"]
    assert ["probability" in volume["layers"] for volume in data["volumes"]] == [False, True]


def test_figures_of_a_run_without_errors(tmp_path):
    folder = write_run(tmp_path / "run", log=False, probabilities=False)
    write_volume(folder / "masks" / "7.tif", (make_volume()[2] == 1).astype(np.uint8))
    _, text = read_data(write_report(tmp_path / "page.html", folder, figures=tmp_path / "figures"))
    assert "Tunnels too many 0 in volume 7; places where sheets merged: 0, split: 0" in text
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["errors.png", "scores.png"]
