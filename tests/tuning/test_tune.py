"""The whole search: what it finds and writes, that it goes on, that several search together, what it refuses."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from helpers.competitions import make_pair

import vesuvius_kit as vk
from vesuvius_kit.checks import InputError
from vesuvius_kit.cli import main
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.postprocess.pipeline import load_pipeline
from vesuvius_kit.tuning.score_log import PARTS
from vesuvius_kit.tuning.search import complete_trials, count_finished, open_journal, valued_trials
from vesuvius_kit.tuning.space import load_space

EDGE = 24
SPACE = """
pipelines:
  raw:
    hysteresis_threshold.t_low: {low: 0.1, high: 0.9, step: 0.1}
    hysteresis_threshold.t_high: {low: 0.0, high: 0.1, step: 0.1, above: hysteresis_threshold.t_low}
  public:
    close_cylinder.z_radius: {low: 0, high: 3}
"""


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Three scrolls of two volumes; the right threshold of their predictions is .7, and the background reaches up to .65."""
    folder, rng = tmp_path_factory.mktemp("case"), np.random.default_rng(0)
    (folder / "probabilities").mkdir()
    for name in ("train_images", "train_labels"):
        (folder / "data" / name).mkdir(parents=True)
    rows = ["id,scroll_id"]
    for number in range(6):
        image, label = make_pair((EDGE, EDGE, EDGE), number)
        for name, volume in (("train_images", image), ("train_labels", label)):
            write_volume(folder / "data" / name / f"{100 + number}.tif", volume)
        noise = rng.random(label.shape)
        probability = np.where(label == 1, 0.72 + 0.25 * noise, 0.65 * noise)
        np.save(folder / "probabilities" / f"{100 + number}.npy", probability.astype(np.float16))
        rows.append(f"{100 + number},{number // 2}")
    (folder / "data" / "train.csv").write_text("\n".join(rows))
    (folder / "space.yaml").write_text(SPACE)
    return folder


def tune(case, output, **options):
    settings = {"trials": 30, "estimate": False, "processes": 1, "space": case / "space.yaml", **options}
    return vk.tune(case / "probabilities", case / "data", output, **settings)


def test_it_finds_the_threshold_and_writes_what_submission_takes(case, tmp_path):
    tuning = tune(case, tmp_path / "tuning", estimate=True)
    assert tuning.pipeline == "raw"
    assert tuning.settings["raw.hysteresis_threshold.t_low"] == pytest.approx(0.7)
    assert tuning.score > 0.99 > max(tuning.baselines.values())
    (step,) = load_pipeline(tuning.folder / "pipeline.yaml")
    assert step.parameters["t_low"] == pytest.approx(0.7)
    assert yaml.safe_load((tuning.folder / "tuned.yaml").read_text()) == {"postprocess": {"pipeline": "pipeline.yaml"}}

    # Each scroll was measured by a search without it, and every volume is the tuned pipeline's plain score.
    estimate = tuning.estimate
    assert estimate is not None
    assert len(estimate.scrolls) == 3
    assert all(gain.tuned > 0.99 for gain in estimate.scrolls.values())
    assert estimate.low - 1e-9 <= estimate.gain <= estimate.high + 1e-9
    figures = json.loads((tuning.folder / "tuning.json").read_text())
    for id_, row in figures["volumes"].items():
        mask = vk.make_mask(vk.load_probability(case / "probabilities" / f"{id_}.npy"), tuning.folder / "pipeline.yaml")
        plain = vk.leaderboard_score(mask, vk.read_volume(case / "data" / "train_labels" / f"{id_}.tif"))
        assert row["tuned"] == pytest.approx({part: getattr(plain, part) for part in PARTS}, abs=1e-6)

    # The optimum stands in its slice with its own score, and no value beside it is better.
    for name, points in tuning.slices.items():
        assert dict(points)[tuning.settings[name]] == pytest.approx(tuning.score)
        assert max(score for _, score in points) == pytest.approx(tuning.score)
    text = tuning.to_text()
    assert "hysteresis_threshold.t_low" in text
    assert f"submit --tuned {tuning.folder}" in text
    best = {row["part"]: row for row in tuning.best_by_part}
    assert best["score"]["score"] == pytest.approx(tuning.score)
    assert best["toposcore"]["toposcore"] >= best["score"]["toposcore"]


def test_called_again_it_adds_only_what_is_missing(case, tmp_path):
    first = tune(case, tmp_path / "t", trials=6)
    scores = sum(path.read_text().count("\n") for path in (tmp_path / "t" / "scores").iterdir())
    again = tune(case, tmp_path / "t", trials=6)
    assert sum(path.read_text().count("\n") for path in (tmp_path / "t" / "scores").iterdir()) == scores
    assert (again.score, again.settings) == (first.score, first.settings)
    assert tune(case, tmp_path / "t", trials=9).score >= first.score
    assert count_finished(open_study(tmp_path / "t")) == 9


def test_a_search_of_other_files_or_another_space_is_refused_unless_fresh(case, tmp_path):
    tune(case, tmp_path / "t", trials=3)
    with pytest.raises(InputError, match=r"must be those of the search in .*--fresh"):
        tune(case, tmp_path / "t", trials=3, space=None)
    with pytest.raises(InputError, match="seed"):
        tune(case, tmp_path / "t", trials=3, seed=1)
    tune(case, tmp_path / "t", trials=3, seed=1, fresh=True)
    assert count_finished(open_study(tmp_path / "t")) == 3


def test_one_process_repeats_itself(case, tmp_path):
    first, second = (tune(case, tmp_path / name, trials=20) for name in "ab")
    assert (first.settings, first.slices) == (second.settings, second.slices)


def test_what_gains_nothing_on_unknown_scrolls_is_not_written(case, tmp_path):
    """Two scrolls of opposite thresholds: what is right for one empties the other, which the presets do not."""
    rng = np.random.default_rng(2)
    (tmp_path / "p").mkdir()
    for number, chunk in enumerate(vk.Competition(case / "data").train[:4]):
        label, noise = vk.read_volume(chunk.label_path), rng.random((EDGE, EDGE, EDGE))
        surface, background = (0.95, 0.75) if number < 2 else (0.6, 0.1)
        probability = np.where(label == 1, surface - 0.05 * noise, background * noise)
        np.save(tmp_path / "p" / f"{chunk.id}.npy", probability.astype(np.float16))
    (tmp_path / "space.yaml").write_text(
        "pipelines: {raw: {hysteresis_threshold.t_low: {low: 0.5, high: 0.8, step: 0.3},"
        " hysteresis_threshold.t_high: {low: 0, high: 0, above: hysteresis_threshold.t_low}}}"
    )
    words = {"space": tmp_path / "space.yaml", "trials": 4, "processes": 1}
    tuning = vk.tune(tmp_path / "p", case / "data", tmp_path / "t", **words)
    assert tuning.estimate is not None
    assert tuning.estimate.gain < 0
    assert tuning.is_preset
    preset = max(tuning.baselines, key=lambda name: tuning.baselines[name])
    assert load_pipeline(tuning.folder / "pipeline.yaml") == load_pipeline(preset)
    assert f"pipeline.yaml is {preset} as it is" in tuning.to_text()
    found = vk.tune(tmp_path / "p", case / "data", tmp_path / "t", estimate=False, **words)
    assert not found.is_preset
    assert load_pipeline(found.folder / "pipeline.yaml")[0].parameters["t_low"] == found.settings[
        "raw.hysteresis_threshold.t_low"
    ]  # fmt: skip


def test_with_one_scroll_the_gain_on_others_is_not_known(case, tmp_path):
    scroll = vk.Competition(case / "data").train[0].scroll_id
    (tmp_path / "p").mkdir()
    for chunk in vk.Competition(case / "data").train:
        if chunk.scroll_id == scroll:
            (tmp_path / "p" / f"{chunk.id}.npy").symlink_to(case / "probabilities" / f"{chunk.id}.npy")
    tuning = vk.tune(tmp_path / "p", case / "data", tmp_path / "t", space=case / "space.yaml", trials=3, processes=1)
    assert tuning.estimate is None
    assert tuning.cautions == ["all volumes are of one scroll: nobody knows what the gain is on others"]


def test_weights_of_groups_are_tuned_and_named_by_network(case, tmp_path):
    """A group that is noise gets no weight; where folders say which networks they are of, these get them."""
    folder, rng = tmp_path / "out_of_fold", np.random.default_rng(1)
    volumes = {}
    for chunk in vk.Competition(case / "data").train:
        for group in ("good", "noise"):
            (folder / group).mkdir(parents=True, exist_ok=True)
        probability = np.load(case / "probabilities" / f"{chunk.id}.npy")
        np.save(folder / "good" / f"{chunk.id}.npy", probability)
        np.save(folder / "noise" / f"{chunk.id}.npy", rng.random(probability.shape).astype(np.float16))
        volumes[chunk.id] = {"scroll": chunk.scroll_id, "networks": {"good": ["12e4" * 4], "noise": ["b" * 16]}}
    index = {
        "format": 1,
        "predict": {},
        "groups": [
            {"name": "good", "weights": ["12e4" * 4, "1" * 16]},
            {"name": "noise", "weights": ["b" * 16]},
        ],
        "volumes": volumes,
    }
    (folder / "out_of_fold.json").write_text(json.dumps(index))
    space = tmp_path / "space.yaml"
    space.write_text(
        "pipelines: {raw: {hysteresis_threshold.t_low: {low: 0.5, high: 0.8, step: 0.1},"
        " hysteresis_threshold.t_high: {low: 0.0, high: 0.1, step: 0.1, above: hysteresis_threshold.t_low}}}"
    )
    tuning = vk.tune(folder, case / "data", tmp_path / "t", space=space, trials=40, estimate=False, processes=1)
    good, noise = (tuning.settings[f"weights.{group}"] for group in ("good", "noise"))
    assert noise < 0.35 * good
    tuned = vk.config.yaml_file.load_yaml(tmp_path / "t" / "tuned.yaml", "settings")
    weights = tuned["predict"]["weights"]
    assert set(weights) == {"12e4" * 4, "1" * 16, "b" * 16}
    # The group's share, divided among its networks.
    assert weights["12e4" * 4] == weights["1" * 16] == pytest.approx(good / (good + noise) / 2, abs=1e-5)
    assert weights["b" * 16] == pytest.approx(noise / (good + noise), abs=1e-5)


def test_volumes_can_be_thinned_out_scroll_by_scroll(case, tmp_path):
    tune(case, tmp_path / "t", trials=2, volumes_per_scroll=1)
    figures = json.loads((tmp_path / "t" / "tuning.json").read_text())
    assert sorted(row["scroll"] for row in figures["volumes"].values()) == sorted(
        {chunk.scroll_id for chunk in vk.Competition(case / "data").train}
    )


def test_a_trial_that_a_step_refuses_is_left_out(case, tmp_path, caplog):
    (tmp_path / "space.yaml").write_text(
        "pipelines: {raw: {hysteresis_threshold.t_low: [0.7, 0.9], hysteresis_threshold.t_high: [0.75, 0.95]}}"
    )
    tuning = tune(case, tmp_path / "t", trials=10, space=tmp_path / "space.yaml")
    assert tuning.settings["raw.hysteresis_threshold.t_low"] == 0.7
    assert "is left out: step 1 (hysteresis_threshold)" in caplog.text


def test_a_trial_that_is_given_up_is_ranked_below_the_best(case, tmp_path):
    tuning = tune(case, tmp_path / "t", trials=40)
    study = open_study(tmp_path / "t")
    best = complete_trials(study)[0]
    partial = [
        trial for trial in valued_trials(study) if trial.number not in {t.number for t in complete_trials(study)}
    ]
    assert tuning.trials == {"complete": 40 - len(partial), "pruned": len(partial)}
    assert partial, "no trial was given up"
    assert all(trial.value < best.value for trial in partial)


def open_study(folder):
    return optuna.load_study(study_name="all", storage=open_journal(folder))


def test_what_cannot_be_used_is_one_line(case, tmp_path, capsys):
    def refused(*words):
        assert main(["tune", "--data", str(case / "data"), "--output", str(tmp_path / "t"), *map(str, words)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vesuvius-kit:")]
        return line

    own = case / "probabilities"
    chunk = vk.Competition(case / "data").train[0]
    for name in ("empty", "unlabelled", "shape"):
        (tmp_path / name).mkdir()
    assert "got none in" in refused("--predictions", tmp_path / "empty")
    assert "nowhere" in refused("--predictions", tmp_path / "nowhere")
    (tmp_path / "unlabelled" / "999.npy").symlink_to(own / f"{chunk.id}.npy")
    assert "got none for 999" in refused("--predictions", tmp_path / "unlabelled")
    np.save(tmp_path / "shape" / f"{chunk.id}.npy", np.zeros((4, 5, 6), np.float16))
    assert "got (4, 5, 6)" in refused("--predictions", tmp_path / "shape")
    (tmp_path / "space.yaml").write_text("pipelines: {raw: {hysteresis_threshold.t_lo: [0.1]}}")
    assert "t_lo" in refused("--predictions", own, "--space", tmp_path / "space.yaml")
    assert "trials must be" in refused("--predictions", own, "--trials", "0")
    assert "seed must be" in refused("--predictions", own, "--seed", "-1")
    (tmp_path / "unfinished" / "run").mkdir(parents=True)
    (tmp_path / "unfinished" / "run" / "settings.json").write_text("{}")
    assert "without out_of_fold.json" in refused("--predictions", tmp_path / "unfinished")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "pipeline.yaml").write_text("- raw")
    assert "somebody else's" in refused("--predictions", own)
    (tmp_path / "t" / "pipeline.yaml").unlink()
    assert not (tmp_path / "t").exists() or not list((tmp_path / "t").glob("*.yaml"))


def test_a_journal_that_is_damaged_is_one_line(case, tmp_path):
    tune(case, tmp_path / "t", trials=2)
    (tmp_path / "t" / "journal.log").write_text("{torn\n{}\n")
    with pytest.raises(InputError, match=r"journal.*--fresh"):
        tune(case, tmp_path / "t", trials=3)


def test_scrolls_that_changed_are_another_search(case, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(case / "data", data)
    words = {"space": case / "space.yaml", "trials": 2, "processes": 1, "estimate": False}
    vk.tune(case / "probabilities", data, tmp_path / "t", **words)
    table = (data / "train.csv").read_text()
    (data / "train.csv").write_text(table.replace("100,0", "100,1"))
    with pytest.raises(InputError, match="scrolls"):
        vk.tune(case / "probabilities", data, tmp_path / "t", **words)


def test_weights_that_no_file_can_name_are_a_caution(case, tmp_path):
    shutil.copytree(case / "probabilities", tmp_path / "other")
    folders = [case / "probabilities", tmp_path / "other"]
    tuning = vk.tune(folders, case / "data", tmp_path / "t", trials=4, estimate=False, processes=1)
    assert any("cannot name" in caution for caution in tuning.cautions)
    assert "weights" not in (tmp_path / "t" / "tuned.yaml").read_text()


def test_weights_of_groups_that_share_no_volume_are_not_searched(case, tmp_path):
    for number, path in enumerate(sorted((case / "probabilities").iterdir())):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[number % 2] / path.name).symlink_to(path)
    words = {"space": case / "space.yaml", "trials": 4, "processes": 1, "estimate": False}
    tuning = vk.tune([tmp_path / "a", tmp_path / "b"], case / "data", tmp_path / "t", **words)
    assert not [name for name in tuning.settings if name.startswith("weights.")]


def test_what_a_killed_process_had_under_way_is_tried_again(case, tmp_path):
    tune(case, tmp_path / "t", trials=3)
    space, rng = load_space(case / "space.yaml"), random.Random(0)
    drawn = [space.draw(rng, []) for _ in range(9)]  # with which every search begins
    done = [trial.params for trial in valued_trials(open_study(tmp_path / "t"))]
    lost = next(values for values in reversed(drawn) if values not in done)
    study = open_study(tmp_path / "t")
    study.enqueue_trial(dict(lost))
    trial = study.ask()
    candidate = space.candidate(space.suggest(trial, []), ["probabilities"])
    trial.set_user_attr("candidate", candidate.digest)  # and is killed
    tune(case, tmp_path / "t", trials=16)
    assert lost in [trial.params for trial in valued_trials(open_study(tmp_path / "t"))]


@pytest.mark.long
def test_a_lock_that_a_kill_left_is_taken_off(case, tmp_path, monkeypatch):
    """With a folder named from where the command is given, as by default; the lock counts as left after half a minute."""
    monkeypatch.chdir(tmp_path)
    tune(case, "t", trials=2)
    (tmp_path / "t" / "journal.log.lock").symlink_to(tmp_path / "t" / "journal.log")
    tune(case, "t", trials=4)
    assert count_finished(open_study(tmp_path / "t")) == 4


def start(case, output, trials):
    words = ["tune", "--predictions", case / "probabilities", "--data", case / "data", "--output", output]
    words += ["--space", case / "space.yaml", "--trials", trials, "--processes", 1, "--skip-estimate"]
    return subprocess.Popen(
        [sys.executable, "-m", "vesuvius_kit", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_trials(folder, count, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # The journal is there before the study is in it.
        has_study = (folder / "journal.log").exists() and "all" in optuna.get_all_study_names(open_journal(folder))
        if has_study and count_finished(open_study(folder)) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"no {count} trials within {seconds} s")


def test_killed_it_goes_on(case, tmp_path):
    process = start(case, tmp_path / "t", 400)
    try:
        wait_for_trials(tmp_path / "t", 15)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = count_finished(open_study(tmp_path / "t"))
    assert 15 <= before < 400
    tuning = tune(case, tmp_path / "t", trials=before + 5)
    assert sum(tuning.trials.values()) == before + 5
    assert tuning.settings["raw.hysteresis_threshold.t_low"] == pytest.approx(0.7)


def test_two_processes_search_together(case, tmp_path):
    processes = [start(case, tmp_path / "t", 60) for _ in range(2)]
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    study = open_study(tmp_path / "t")
    # The last trial of each may end after the other's.
    assert 60 <= count_finished(study) <= 62
    files = list(Path(tmp_path / "t" / "scores").glob("*.jsonl"))
    assert len(files) == 2
    assert all(path.stat().st_size for path in files)


def test_its_own_processes_share_the_work(case, tmp_path):
    tuning = tune(case, tmp_path / "t", trials=20, processes=2)
    assert 20 <= sum(tuning.trials.values()) <= 21
    assert tuning.score > 0.99
