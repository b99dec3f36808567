import hashlib
import json
import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from vesuvius_kit.checks import InputNotFoundError, InputValueError
from vesuvius_kit.models import create_model
from vesuvius_kit.models.checkpoint import (
    FILE_NAME,
    find_checkpoints,
    have_same_weights,
    inspect_checkpoint,
    link_checkpoint,
    load_checkpoint,
    load_model,
    read_checkpoint_header,
    restore_optimizer,
    save_checkpoint,
)


def small_model():
    return create_model("unet3d", initial_filters=4, depth=2)


def train_a_step(model, optimizer):
    generator = torch.Generator().manual_seed(3)
    loss = model(torch.randn(1, 1, 8, 8, 8, generator=generator)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_model_optimiser_and_state_come_back_exactly(tmp_path):
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train_a_step(model, optimizer)
    state = {"epoch": 3, "best": None, "rates": [0.1, 1e-17]}
    save_checkpoint(tmp_path / "last", model, state, optimizer, config_yaml="n_folds: 2\n")

    checkpoint = load_checkpoint(tmp_path / "last")
    assert checkpoint.state == state
    assert checkpoint.record == model.record
    assert (tmp_path / "last" / "config.yaml").read_text() == "n_folds: 2\n"
    restored = load_model(tmp_path / "last")
    assert not restored.training
    other = torch.optim.AdamW(restored.parameters(), lr=0.01)
    restore_optimizer(other, checkpoint.optimizer)
    restored.train()
    train_a_step(model, optimizer)
    train_a_step(restored, other)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name]), name


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    model = small_model()
    save_checkpoint(tmp_path, model, {"epoch": 1})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, model, {"epoch": float("nan")})
    assert load_checkpoint(tmp_path).state == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = save_checkpoint(tmp_path / "good", small_model(), {})
    cut = tmp_path / "cut" / FILE_NAME
    cut.parent.mkdir()
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputValueError, match=r"complete safetensors file, got .*cut"):
        load_checkpoint(cut)
    from safetensors.numpy import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": np.zeros(3)}, foreign)
    with pytest.raises(InputValueError, match="written by this kit"):
        load_checkpoint(foreign)
    with pytest.raises(InputNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_checkpoints_are_found_by_file_fold_and_run(tmp_path):
    model = small_model()
    for place in ("fold_0/last", "fold_0/best", "fold_2/last", "fold_10/best", "before_fresh_1_fold_0/best"):
        save_checkpoint(tmp_path / place, model, {})
    places = [str(path.relative_to(tmp_path).parent) for path in find_checkpoints([tmp_path])]
    assert places == ["fold_0/best", "fold_2/last", "fold_10/best"]
    assert find_checkpoints([tmp_path / "fold_0"]) == [tmp_path / "fold_0" / "best" / FILE_NAME]
    exact = tmp_path / "fold_0" / "last" / FILE_NAME
    assert find_checkpoints([exact, exact.parent]) == [exact, exact]
    with pytest.raises(InputNotFoundError, match="got none"):
        find_checkpoints([tmp_path / "fold_2", tmp_path / "empty"])


@pytest.mark.parametrize("links", [True, False])
def test_a_linked_checkpoint_is_the_same_and_outlives_the_other(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise OSError("no links here")

        monkeypatch.setattr("os.link", refuse)
    model = small_model()
    average = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path / "last", model, {"epoch": 1}, config_yaml="n_folds: 2\n")
    save_checkpoint(tmp_path / "kept", model, {"epoch": 2}, config_yaml="n_folds: 3\n", average=average)
    link_checkpoint(tmp_path / "kept", tmp_path / "last")
    save_checkpoint(tmp_path / "kept", model, {"epoch": 3}, config_yaml="n_folds: 4\n")
    checkpoint = load_checkpoint(tmp_path / "last")
    assert checkpoint.state == {"epoch": 2}
    assert checkpoint.average.keys() == average.keys()
    assert all(torch.equal(tensor, average[name]) for name, tensor in checkpoint.average.items())
    assert (tmp_path / "last" / "config.yaml").read_text() == "n_folds: 3\n"
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == [FILE_NAME, "config.yaml"]


@pytest.mark.parametrize("name", ["fold_0_backup", "fold_0.old", "fold_00", "fold_1 (copy)", "old_fold_0", "fold_"])
def test_only_exact_names_are_folds(tmp_path, name):
    """A5: a backup beside a fold was averaged with it."""
    for place in ("fold_0", "fold_1", name):
        save_checkpoint(tmp_path / place / "best", small_model(), {})
    (tmp_path / "fold_7").write_text("a file\n")
    assert [path.parents[1].name for path in find_checkpoints([tmp_path])] == ["fold_0", "fold_1"]
    assert find_checkpoints([tmp_path / name]) == [tmp_path / name / "best" / FILE_NAME]


def test_the_header_is_read_without_the_tensors(tmp_path):
    """A18: a checkpoint was read whole four times before a prediction."""
    model = small_model()
    path = save_checkpoint(tmp_path, model, {"epoch": 4})
    assert read_checkpoint_header(tmp_path) == (model.record, {"epoch": 4})
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(path.read_bytes().replace(b'"record"', b'"rekord"'))
    with pytest.raises(InputValueError, match=r"written by this kit, got .*foreign"):
        read_checkpoint_header(foreign)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its header cannot be read"),
        (b"\xff" * 100, "a header of 18446744073709551615 bytes"),
        (b"\x02" + bytes(7) + b"[]", "its header cannot be read"),
        (b"\x02" + bytes(7) + b"{}" + b"x", "11 bytes where its header says 10"),
        (b"\x02" + bytes(7) + b"{}", "written by this kit"),
    ],
)
def test_a_header_that_cannot_be_read_is_named(tmp_path, content, reason):
    (tmp_path / FILE_NAME).write_bytes(content)
    for read in (read_checkpoint_header, inspect_checkpoint):
        with pytest.raises(InputValueError, match=rf"checkpoint must .*, got .*{FILE_NAME}") as raised:
            read(tmp_path)
        assert reason in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_header_with_any_byte_changed_is_read_or_named(tmp_path):
    path = save_checkpoint(tmp_path, small_model(), {"epoch": 4})
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    generator = random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        content[generator.randrange(length)] = generator.randrange(256)
        path.write_bytes(content)
        with suppress(InputValueError):
            read_checkpoint_header(path)


def test_metadata_of_another_program_is_named(tmp_path):
    for metadata in ([], [1], "text", {"record": 1, "state": "{}"}, {"record": "1", "state": "[]"}):
        header = json.dumps({"__metadata__": metadata}).encode()
        (tmp_path / FILE_NAME).write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(InputValueError, match=r"checkpoint must (have been|be a complete)"):
            read_checkpoint_header(tmp_path)


def test_a_file_is_inspected_in_one_go(tmp_path):
    """A18: the digest is of the whole file; of `best` and `last` of one epoch the weights are the same."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train_a_step(model, optimizer)
    best = save_checkpoint(tmp_path / "best", model, {"epoch": 1})
    last = save_checkpoint(tmp_path / "last", model, {"epoch": 1}, optimizer)
    other = save_checkpoint(tmp_path / "other", small_model(), {"epoch": 1})
    for path in (best, last, other):
        file = inspect_checkpoint(path.parent)
        assert file == (path, hashlib.sha256(path.read_bytes()).hexdigest()[:16], read_checkpoint_header(path))
    assert len({inspect_checkpoint(path).digest for path in (best, last, other)}) == 3
    assert have_same_weights(best, last)
    assert not have_same_weights(best, other)


def test_weights_of_nan_are_the_same_as_themselves_and_of_another_type_are_not(tmp_path):
    model = small_model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    first = save_checkpoint(tmp_path / "first", model, {})
    assert have_same_weights(first, save_checkpoint(tmp_path / "copy", model, {"epoch": 1}))
    assert not have_same_weights(first, save_checkpoint(tmp_path / "half", model.half(), {}))
    assert not have_same_weights(first, save_checkpoint(tmp_path / "wider", create_model("unet3d", depth=1), {}))


def test_weights_that_were_replaced_or_do_not_fit_are_named(tmp_path):
    """A18: the bytes that predict are those of the digest."""
    path = save_checkpoint(tmp_path / "a", small_model(), {})
    digest = inspect_checkpoint(path).digest
    load_model(path, digest)
    save_checkpoint(tmp_path / "a", small_model(), {})
    with pytest.raises(InputValueError, match=rf"must not be replaced while it is in use, got .*a/{FILE_NAME}"):
        load_model(path, digest)
    model = small_model()
    model.record = create_model("unet3d", initial_filters=8, depth=2).record
    save_checkpoint(tmp_path / "b", model, {})
    with pytest.raises(InputValueError, match=rf"weights of its unet3d, got .*b/{FILE_NAME}: .*size mismatch"):
        load_model(tmp_path / "b")
