"""Scores of candidates: equal to the plain way, computed once, whatever is kept."""

import json

import numpy as np
import pytest

import vesuvius_kit as vk
from vesuvius_kit.checks import InputError
from vesuvius_kit.postprocess.pipeline import load_pipeline, make_pipeline, run_pipeline
from vesuvius_kit.tuning.candidate import Candidate
from vesuvius_kit.tuning.evaluation import Evaluator
from vesuvius_kit.tuning.held_out import HeldOutVolume
from vesuvius_kit.tuning.score_log import ScoreLog, VolumeScore

SHAPE = (20, 22, 24)


@pytest.fixture
def volume(tmp_path):
    rng = np.random.default_rng(0)
    label = np.zeros(SHAPE, np.uint8)
    label[:, 6:9] = label[:, 15:18] = 1
    label[:2] = 2
    vk.write_volume(tmp_path / "7.tif", label)
    paths = {}
    for group in ("a", "b"):
        paths[group] = tmp_path / f"{group}.npy"
        np.save(paths[group], np.clip(0.7 * (label == 1) + rng.random(SHAPE) * 0.4, 0, 1).astype(np.float16))
    return HeldOutVolume("7", "1", tmp_path / "7.tif", paths)


def score_plainly(volume, candidate):
    shares = dict(candidate.weights)
    mean = sum(share * np.load(volume.probability_paths[group]).astype(np.float32) for group, share in shares.items())
    mask = run_pipeline(np.clip(mean, 0, 1).astype(np.float32), candidate.steps)
    return vk.leaderboard_score(mask, vk.read_volume(volume.label_path))


def candidates():
    for t_low in (0.3, 0.5):
        for name in ("public", "sheet_repair", "raw"):
            steps = [
                [step.name, step.parameters | ({"t_low": t_low, "t_high": 0.6} if "thres" in step.name else {})]
                for step in load_pipeline(name)
            ]
            pipeline = make_pipeline([{step: parameters} for step, parameters in steps])
            for weights in ({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 3.0}):
                yield Candidate.of(name, pipeline, weights)


@pytest.mark.parametrize("cache_bytes", [0, 60_000, 10**9])
def test_scores_are_those_of_the_plain_way_whatever_is_kept(volume, tmp_path, cache_bytes):
    evaluator = Evaluator({"7": volume}, ScoreLog(tmp_path / "scores"), cache_bytes)
    for candidate in candidates():
        found, wanted = evaluator.score(candidate, "7"), score_plainly(volume, candidate)
        assert found.score == pytest.approx(wanted.score, abs=1e-9)
        assert found.parts()["toposcore"] == pytest.approx(wanted.toposcore, abs=1e-9)


def test_what_candidates_share_is_computed_once(volume, tmp_path, monkeypatch):
    ran = []
    from vesuvius_kit.tuning import evaluation

    real = evaluation.run_step
    monkeypatch.setattr(
        evaluation, "run_step", lambda carried, step, number: ran.append(step.name) or real(carried, step, number)
    )
    evaluator = Evaluator({"7": volume}, ScoreLog(tmp_path / "scores"), 10**9)
    for min_size in (10, 20, 30):
        steps = make_pipeline(["hysteresis_threshold", {"remove_small_components": {"min_size": min_size}}])
        evaluator.score(Candidate.of("mine", steps, {"a": 1.0}), "7")
    assert ran == ["hysteresis_threshold"] + ["remove_small_components"] * 3
    evaluator.score(Candidate.of("mine", steps, {"a": 1.0}), "7")
    assert len(ran) == 4


def test_a_group_that_did_not_predict_a_volume_does_not_count_there(volume, tmp_path):
    alone = HeldOutVolume("7", "1", volume.label_path, {"a": volume.probability_paths["a"]})
    evaluator = Evaluator({"7": alone}, ScoreLog(tmp_path / "scores"), 10**9)
    wanted = score_plainly(volume, Candidate.of("raw", load_pipeline("raw"), {"a": 1.0})).score
    for weights in ({"a": 0.2, "b": 0.8}, {"a": 0.0, "b": 1.0}):
        found = evaluator.score(Candidate.of("raw", load_pipeline("raw"), weights), "7").score
        assert found == pytest.approx(wanted, abs=1e-9)


def test_a_prediction_of_another_shape_is_named(volume, tmp_path):
    np.save(volume.probability_paths["a"], np.zeros((3, 4, 5), np.float16))
    evaluator = Evaluator({"7": volume}, ScoreLog(tmp_path / "scores"), 10**9)
    with pytest.raises(InputError, match=r"a\.npy.*\(3, 4, 5\)"):
        evaluator.score(Candidate.of("raw", load_pipeline("raw"), {"a": 1.0}), "7")


def test_a_label_without_a_labelled_voxel_is_named(volume, tmp_path):
    vk.write_volume(volume.label_path, np.full(SHAPE, 2, np.uint8))
    evaluator = Evaluator({"7": volume}, ScoreLog(tmp_path / "scores"), 10**9)
    with pytest.raises(InputError, match=r"labelled voxels, got none in .*7\.tif"):
        evaluator.score(Candidate.of("raw", load_pipeline("raw"), {"a": 1.0}), "7")


def test_several_processes_share_their_scores(tmp_path):
    first, second = ScoreLog(tmp_path), ScoreLog(tmp_path)
    score = VolumeScore(0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1)
    assert second.get("c", "7") is None
    first.add("c", "7", score)
    assert second.get("c", "7") == score
    second.add("d", "7", score)
    assert set(first.all()) == set(second.all()) == {("c", "7"), ("d", "7")}


def test_a_line_that_a_kill_cut_short_is_scored_again(tmp_path):
    score = VolumeScore(0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1)
    whole = json.dumps({"candidate": "c", "volume": "7", **score._asdict()})
    path = tmp_path / "other.jsonl"
    path.write_text(f"{whole}\n{whole[:30]}")
    log = ScoreLog(tmp_path)
    assert log.all() == {("c", "7"): score}
    path.write_text(f"{whole}\n{whole.replace(chr(34) + '7', chr(34) + '8')}\n")
    assert set(log.all()) == {("c", "7"), ("c", "8")}
