"""Results folders of nnU-Net as models: which files are taken, what is refused, and the way into a kit checkpoint."""

import pickle

import pytest
import torch

import vesuvius_kit as vk
from tests.helpers.nnunet_folders import (
    architecture,
    dataset,
    make_weights,
    plans,
    write_checkpoint,
    write_json,
    write_nnunet_folder,
)
from vesuvius_kit.checks import InputError, InputNotFoundError, InputTypeError, InputValueError
from vesuvius_kit.models import Normalisation, OutputRule, create_model
from vesuvius_kit.models.checkpoint import save_checkpoint
from vesuvius_kit.models.nnunet import digest_nnunet, find_nnunet, is_nnunet, load_nnunet
from vesuvius_kit.models.weights import (
    agreed_settings,
    are_the_same,
    convert_weights,
    find_weights,
    inspect_weights,
    load_weights,
    read_settings,
    read_size_divisors,
)


def image(seed=0):
    return torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(seed))


def answer(model):
    with torch.inference_mode():
        return model(image())


def test_a_folder_is_a_model_with_its_own_record(tmp_path):
    content = plans(spacing=[2.0, 1.0, 1.0]) | {"transpose_forward": [1, 0, 2]}
    model = vk.load_nnunet(write_nnunet_folder(tmp_path, content))
    rules = model.record.rules
    assert not model.training
    assert model.record.normalisation == Normalisation("ct", 87.5, 47.7, 3.0, 250.5)
    assert rules.output == OutputRule("softmax", 2, (1,))
    assert (rules.average, rules.grid, rules.crop) == ("logits", "nnunet", True)
    assert (rules.window, rules.spacing, rules.transpose) == ((16, 16, 16), (2.0, 1.0, 1.0), (1, 0, 2))
    assert rules.mirror_axes == (0, 1, 2)
    assert answer(model).shape == (1, 2, 16, 16, 16)


@pytest.mark.parametrize(("axes", "expected"), [((0, 2), (0, 2)), (None, None), (..., None), ([], None)])
def test_mirroring_is_what_the_checkpoint_allows(tmp_path, axes, expected):
    folder = write_nnunet_folder(tmp_path, inference_allowed_mirroring_axes=axes)
    assert load_nnunet(folder).record.rules.mirror_axes == expected


def test_all_folds_are_averaged_and_each_can_be_had_alone(tmp_path):
    folder = write_nnunet_folder(tmp_path, folds=(0, 1, 10, 2))
    (folder / "fold_3").mkdir()
    together = answer(load_nnunet(folder))
    alone = [answer(load_nnunet(folder / f"fold_{fold}")) for fold in (0, 1, 2, 10)]
    assert (together - sum(alone) / 4).abs().max() < 1e-5
    assert torch.equal(answer(load_nnunet(folder, folds=[2])), alone[2])
    assert torch.equal(answer(load_nnunet(folder, 10)), alone[3])
    assert [path.parent.name for path in find_nnunet(folder).checkpoints] == ["fold_0", "fold_1", "fold_2", "fold_10"]


def test_the_network_of_all_data_is_taken_where_there_is_no_other(tmp_path):
    folder = write_nnunet_folder(tmp_path, folds=("all",))
    assert [path.parent.name for path in find_nnunet(folder).checkpoints] == ["fold_all"]
    write_nnunet_folder(tmp_path, folds=(1,))
    assert [path.parent.name for path in find_nnunet(folder).checkpoints] == ["fold_1"]
    assert [path.parent.name for path in find_nnunet(folder, ["all", 1]).checkpoints] == ["fold_all", "fold_1"]


def test_final_comes_before_best_and_either_can_be_named(tmp_path):
    folder = write_nnunet_folder(tmp_path, name="best", seed=1)
    best = answer(load_nnunet(folder))
    write_nnunet_folder(folder, name="final", seed=2)
    final = answer(load_nnunet(folder))
    assert not torch.equal(best, final)
    assert torch.equal(answer(load_nnunet(folder, checkpoint="best")), best)
    assert torch.equal(answer(load_nnunet(folder, checkpoint="checkpoint_best.pth")), best)
    assert torch.equal(answer(load_nnunet(folder / "fold_0" / "checkpoint_best.pth")), best)
    assert torch.equal(answer(load_nnunet(folder / "fold_0")), final)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_stripped(tmp_path, prefix):
    weights = make_weights(plans(), dataset())
    expected = answer(load_nnunet(write_nnunet_folder(tmp_path / "plain", weights=weights)))
    wrapped = {prefix + name: value for name, value in weights.items()}
    assert torch.equal(answer(load_nnunet(write_nnunet_folder(tmp_path / "wrapped", weights=wrapped))), expected)


def test_half_precision_weights_are_loaded_as_single(tmp_path):
    weights = {name: value.half() for name, value in make_weights(plans(), dataset()).items()}
    model = load_nnunet(write_nnunet_folder(tmp_path, weights=weights))
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_names_that_do_not_match_are_listed_in_one_line(tmp_path):
    weights = make_weights(plans(), dataset())
    del weights["decoder.seg_layers.0.bias"]
    weights["decoder.extra.weight"] = torch.zeros(1)
    weights["encoder.stages.0.0.convs.0.conv.weight"] = torch.zeros(4, 2, 3, 3, 3)
    folder = write_nnunet_folder(tmp_path, weights=weights)
    with pytest.raises(InputValueError) as caught:
        load_nnunet(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "decoder.seg_layers.0.bias is missing" in message
    assert "decoder.extra.weight is not of the network" in message
    assert "encoder.stages.0.0.convs.0.conv.weight is (4, 2, 3, 3, 3) for (4, 1, 3, 3, 3)" in message


@pytest.mark.parametrize(
    "change",
    [torch.Tensor.to_sparse, torch.Tensor.int, lambda value: value.to(torch.complex64), lambda value: value.to("meta")],
)
def test_weights_that_are_no_real_numbers_are_refused(tmp_path, change):
    weights = make_weights(plans(), dataset())
    name = "decoder.seg_layers.1.weight"
    weights[name] = change(weights[name])
    with pytest.raises(InputValueError, match=rf"must match the network .*: {name} is torch\."):
        load_nnunet(write_nnunet_folder(tmp_path, weights=weights))


def test_many_names_that_do_not_match_are_counted(tmp_path):
    folder = write_nnunet_folder(tmp_path, weights={})
    with pytest.raises(InputValueError, match=r"is missing, .* and \d+ more$"):
        load_nnunet(folder)


class Harmful:
    def __reduce__(self):
        return print, ("run by the pickle",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    folder = write_nnunet_folder(tmp_path, logging={"harm": Harmful()})
    with pytest.raises(InputValueError, match=r"must hold plain numbers and weights only, got .*print"):
        load_nnunet(folder)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(InputValueError, match="checkpoint"):
        load_nnunet(folder)
    assert capsys.readouterr().out == ""


def test_damaged_checkpoints_are_refused(tmp_path):
    folder = write_nnunet_folder(tmp_path)
    path = folder / "fold_0" / "checkpoint_final.pth"
    data = path.read_bytes()
    for damaged in (b"", b"text", data[: len(data) // 2], data[:100]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="checkpoint"):
            load_nnunet(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_args": {}}, "must name its configuration in init_args"),
        ({"init_args": ...}, "must name its configuration in init_args"),
        ({"configuration": "2d"}, "configuration must be one of 3d_fullres, got '2d'"),
        ({"network_weights": [1]}, "must hold tensors by name in network_weights"),
        ({"network_weights": {"a": 1}}, "must hold tensors by name in network_weights"),
        ({"inference_allowed_mirroring_axes": (3,)}, r"must be axes 0, 1, 2, got \(3,\)"),
        ({"inference_allowed_mirroring_axes": [[0]]}, r"must be axes 0, 1, 2, got \[\[0\]\]"),
    ],
)
def test_checkpoints_of_another_kind_are_refused(tmp_path, changes, message):
    folder = write_nnunet_folder(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_nnunet(folder)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"must hold plans\.json, got none"):
        load_nnunet(tmp_path)
    write_json(tmp_path, plans(), dataset())
    with pytest.raises(
        InputNotFoundError, match=r"fold_0, fold_1, \.\.\. with checkpoint_final.pth or checkpoint_best.pth"
    ):
        load_nnunet(tmp_path)
    write_nnunet_folder(tmp_path, name="latest")
    with pytest.raises(InputNotFoundError, match=r"fold_0 must hold .*, got checkpoint_latest\.pth"):
        load_nnunet(tmp_path / "fold_0")
    assert answer(load_nnunet(tmp_path, checkpoint="latest")).shape == (1, 2, 16, 16, 16)
    with pytest.raises(InputNotFoundError, match=r"fold_7 must hold .*, got no checkpoint"):
        load_nnunet(tmp_path, folds=[7])
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(InputNotFoundError, match=r"dataset\.json"):
        load_nnunet(tmp_path, checkpoint="latest")


@pytest.mark.parametrize("folds", [[], [0, 0], [-1], ["one"], [True], [0.0]])
def test_impossible_folds_are_refused(tmp_path, folds):
    folder = write_nnunet_folder(tmp_path)
    with pytest.raises(InputError, match="folds must be"):
        load_nnunet(folder, folds)
    with pytest.raises(InputValueError, match="folds and checkpoint must be left out where the path names them"):
        load_nnunet(folder / "fold_0", 0)


def test_folds_of_two_configurations_are_refused(tmp_path):
    content = plans()
    content["configurations"]["3d_other"] = {"inherits_from": "3d_fullres", "spacing": [2.0, 2.0, 2.0]}
    folder = write_nnunet_folder(tmp_path, content)
    write_checkpoint(folder / "fold_1" / "checkpoint_final.pth", make_weights(content, dataset()), "3d_other")
    with pytest.raises(InputValueError, match="folds must be of one configuration, got 3d_fullres and 3d_other"):
        load_nnunet(folder)


def test_a_patch_that_the_strides_do_not_divide_is_refused(tmp_path):
    with pytest.raises(InputValueError, match=r"patch_size must be multiples of \(4, 4, 4\), got \(16, 18, 16\)"):
        load_nnunet(write_nnunet_folder(tmp_path, plans(patch_size=[16, 18, 16])))


def test_the_surface_can_be_chosen(tmp_path):
    labels = {"background": 0, "recto": 1, "verso": 2}
    folder = write_nnunet_folder(tmp_path, dataset_content=dataset(labels))
    assert load_nnunet(folder).record.rules.output.surface == (1,)
    assert load_nnunet(folder, surface=["recto", "verso"]).record.rules.output.surface == (1, 2)
    with pytest.raises(InputValueError, match="surface must be among recto, verso, got 'ink'"):
        load_nnunet(folder, surface="ink")


@pytest.mark.parametrize("half", [False, True])
def test_a_converted_folder_is_the_same_network(tmp_path, half):
    content = plans(architecture("ResidualEncoderUNet", strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]]))
    folder = write_nnunet_folder(tmp_path / "nnunet", content, folds=(0, 1))
    original = load_nnunet(folder)
    path = convert_weights(folder, tmp_path / "kit", half=half)
    converted = load_weights(path)
    assert converted.record == original.record
    assert converted.size_divisors == original.size_divisors == (2, 4, 4)
    expected = answer(original)
    assert (answer(converted) - expected).abs().max() <= (0.01 * expected.abs().max() if half else 0)
    size = sum(value.numel() for value in original.parameters()) * (2 if half else 4)
    assert size <= path.stat().st_size < 1.2 * size + 20_000
    assert are_the_same(inspect_weights(folder), inspect_weights(path))


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path):
    weights = make_weights(plans(), dataset())
    weights["decoder.seg_layers.1.bias"] = torch.tensor([1e6, 0.0])
    folder = write_nnunet_folder(tmp_path / "nnunet", weights=weights)
    with pytest.raises(
        InputValueError, match=r"finite in float16 .*, got infinity in members.0.decoder.seg_layers.1.bias"
    ):
        convert_weights(folder, tmp_path / "kit", half=True)
    assert not (tmp_path / "kit" / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_the_kit_can_be_halved(tmp_path):
    model = create_model("unet3d", initial_filters=2, depth=1)
    state = {"config": {"patches": {"size": [16, 16, 16]}}, "epoch": 3}
    path = save_checkpoint(tmp_path / "run", model, state, torch.optim.SGD(model.parameters(), lr=0.1))
    halved = convert_weights(path, tmp_path / "halved", half=True)
    assert inspect_weights(halved).rules.window == (16, 16, 16)
    assert are_the_same(inspect_weights(path), inspect_weights(halved))
    for own, other in zip(load_weights(halved).parameters(), model.parameters(), strict=True):
        assert torch.equal(own, other.half().float())
    with pytest.raises(InputValueError, match="surface must be left out for a checkpoint of the kit, got 'recto'"):
        convert_weights(path, tmp_path / "again", surface="recto")


def test_a_converted_checkpoint_keeps_the_settings_of_its_training(tmp_path):
    model = create_model("unet3d", initial_filters=2, depth=1)
    source = tmp_path / "run" / "fold_0" / "last"
    path = save_checkpoint(source, model, {}, torch.optim.SGD(model.parameters(), lr=0.1), "predict:\n  overlap: 0.3\n")
    converted = convert_weights(path, tmp_path / "kit")
    assert converted.with_name("config.yaml").read_text() == (source / "config.yaml").read_text()
    # A run would lose its optimiser, and could not go on.
    before = path.read_bytes()
    for given in (path, source, tmp_path / "run"):
        with pytest.raises(InputValueError, match="output must be another folder than the checkpoint's"):
            convert_weights(given, source)
    assert path.read_bytes() == before


def test_what_is_almost_a_results_folder_is_named(tmp_path):
    folder = write_nnunet_folder(tmp_path / "Dataset001" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    with pytest.raises(InputNotFoundError, match=r"must be given itself, got .*Dataset001, which holds .*3d_fullres"):
        find_weights([tmp_path / "Dataset001"])
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    for name in ("checkpoint_final.pth", "model.zip"):
        alone = tmp_path / "alone" / name
        alone.parent.mkdir(exist_ok=True)
        alone.write_bytes(checkpoint.read_bytes())
        for use in (lambda path: find_weights([path]), lambda path: convert_weights(path, tmp_path / "kit")):
            with pytest.raises(InputValueError, match=r"nnU-Net's results folder \(plans.json, .*\), unpacked, got"):
                use(alone)
    (folder / "plans.json").unlink()
    for place in (folder, folder / "fold_0", alone.parent):
        with pytest.raises(InputNotFoundError, match=r"must be complete \(plans.json, dataset.json and fold_"):
            find_weights([place])


def test_weights_of_both_kinds_are_found_and_told_apart(tmp_path):
    folder = write_nnunet_folder(tmp_path / "nnunet", folds=(0, 1))
    model = create_model("unet3d", initial_filters=2, depth=1)
    kit = save_checkpoint(tmp_path / "run" / "fold_0" / "best", model, {"config": {"patches": {"size": [8, 8, 8]}}})
    found = find_weights([folder, tmp_path / "run", folder / "fold_1"])
    assert found == [folder, kit, folder / "fold_1"]
    whole, own, single = map(inspect_weights, found)
    assert (whole.kind, own.kind, single.kind) == ("nnunet", "kit", "nnunet")
    assert (whole.rules.window, own.rules.window) == ((16, 16, 16), (8, 8, 8))
    assert len({whole.digest, own.digest, single.digest}) == 3
    assert not are_the_same(whole, single)
    assert not are_the_same(whole, own)
    assert are_the_same(whole, inspect_weights(folder))
    assert read_settings(folder) is None
    assert read_settings(kit) == {"patches": {"size": [8, 8, 8]}}
    for path, entry in zip(found, (whole, own, single)):
        assert load_weights(path, entry.digest).record is not None
    with pytest.raises(InputNotFoundError):
        find_weights([tmp_path / "nowhere"])


def test_settings_count_as_far_as_weights_agree_whatever_their_order(tmp_path, caplog):
    caplog.set_level("INFO")
    model = create_model("unet3d", initial_filters=2, depth=1)

    def checkpoint(name, **predict):
        config = {"predict": {"window": [8, 8, 8], "device": "cuda:1", "precision": "fp16", **predict}}
        return save_checkpoint(tmp_path / name, model, {"config": {**config, "postprocess": {"pipeline": "public"}}})

    first, second = checkpoint("a", overlap=0.25, tta="mirror"), checkpoint("b", overlap=0.5, tta="mirror")
    shared = {"predict.window": [8, 8, 8], "predict.tta": "mirror", "postprocess.pipeline": "public"}
    assert agreed_settings([first]) == {**shared, "predict.overlap": 0.25}
    assert agreed_settings([first, second]) == agreed_settings([second, first]) == shared
    assert "the weights do not agree on predict.overlap (0.25, 0.5)" in caplog.text
    nnunet = write_nnunet_folder(tmp_path / "nnunet")
    for weights in ([first, nnunet], [nnunet, first]):
        assert agreed_settings(weights) == {"postprocess.pipeline": "public"}
    assert agreed_settings([nnunet]) == {}


def test_size_divisors_are_known_without_weights(tmp_path):
    folder = write_nnunet_folder(tmp_path / "nnunet")
    kit = save_checkpoint(tmp_path / "kit", create_model("unet3d", initial_filters=2, depth=2), {})
    for path in (folder, kit):
        assert read_size_divisors(inspect_weights(path)) == load_weights(path).size_divisors


def test_files_that_were_replaced_are_refused(tmp_path):
    folder = write_nnunet_folder(tmp_path)
    digest = digest_nnunet(find_nnunet(folder))
    load_nnunet(folder, digest=digest)
    write_nnunet_folder(tmp_path, seed=5)
    with pytest.raises(InputValueError, match="must not be replaced while it is in use"):
        load_nnunet(folder, digest=digest)


def test_a_relative_path_may_name_a_fold(tmp_path, monkeypatch):
    folder = write_nnunet_folder(tmp_path)
    monkeypatch.chdir(folder / "fold_0")
    assert is_nnunet(".")
    assert load_nnunet("checkpoint_final.pth").record.name == "nnunet"
    assert not is_nnunet("..\\..")


def test_a_folder_of_the_kit_is_none_of_nnunets(tmp_path):
    save_checkpoint(tmp_path / "fold_0" / "best", create_model("unet3d", initial_filters=2, depth=1), {})
    assert not is_nnunet(tmp_path)
    assert not is_nnunet(tmp_path / "fold_0")


def test_kinds_of_folds_are_checked(tmp_path):
    with pytest.raises(InputTypeError, match="folds must be numbers or all, got 'first'"):
        load_nnunet(write_nnunet_folder(tmp_path), "first")
