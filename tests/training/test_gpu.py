"""Training on a GPU: steps in every type, the scaler of float16, whole runs and their resumption."""

import json

import pytest
import torch
from helpers.competitions import TINY, write_small_competition
from helpers.gpu import TEST_DEVICE, exact_float32, need_a_gpu, need_units_for, small_model

from vesuvius_kit.config import load_config
from vesuvius_kit.constants import UNLABELLED
from vesuvius_kit.losses import WeightedLoss
from vesuvius_kit.models import list_models

pytestmark = pytest.mark.gpu
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
every_type = pytest.mark.parametrize("precision", list(DTYPES))


@pytest.fixture(autouse=True)
def float32_is_exact():
    with exact_float32():
        yield


class Steps:
    """Training steps on one batch: autocast, scaler, clipping, AdamW."""

    def __init__(self, name, precision, scale=2.0**16):
        self.model = small_model(name).to(TEST_DEVICE).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.scaler = torch.amp.GradScaler(TEST_DEVICE, init_scale=scale, enabled=precision == "fp16")
        self.loss = WeightedLoss({"dice": 0.5, "cross_entropy": 0.5})
        self.dtype = DTYPES[precision]
        edge = max(16, self.model.size_divisor)
        image = torch.randn((2, 1, edge, edge, edge), generator=torch.Generator().manual_seed(1))
        label = (image[:, 0] > 0.5).to(torch.uint8)
        label[:, :2] = UNLABELLED
        self.image, self.label = image.to(TEST_DEVICE), label.to(TEST_DEVICE)

    def make(self):
        """The loss of a step."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(TEST_DEVICE, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(self.image)
        total, _ = self.loss(logits.float(), self.label)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(total.detach())


@every_type
@pytest.mark.parametrize("name", list_models())
def test_steps_lower_the_loss_in_every_type(name, precision):
    need_units_for(DTYPES[precision], name)
    steps = Steps(name, precision)
    losses = [steps.make() for _ in range(8)]
    assert all(torch.isfinite(value).all() for value in steps.model.parameters())
    assert losses[-1] < losses[0]


def test_a_step_that_overflows_is_skipped_and_the_scale_falls():
    steps = Steps("unet3d", "fp16", scale=2.0**120)
    before = [value.detach().clone() for value in steps.model.parameters()]
    steps.make()
    assert all(torch.equal(value, old) for value, old in zip(steps.model.parameters(), before))
    assert steps.scaler.get_scale() == 2.0**119


def configure(tmp_path, output, **changes):
    # The loop augments, which needs OpenCV: it is too large for the folder of wheels.
    pytest.importorskip("cv2", exc_type=ImportError)
    data = tmp_path / "data"
    if not data.is_dir():
        write_small_competition(data)
    settings = {**TINY, "data": str(data), "output": str(tmp_path / output), "predict.device": TEST_DEVICE}
    return load_config(None, {**settings, **changes})


def train(config, **settings):
    # Imports what may not be there; see `configure`.
    from vesuvius_kit.training import loop

    return loop.train(config, **settings)


def curve_of(run):
    lines = [json.loads(line) for line in (run / "fold_0" / "log.jsonl").read_text().splitlines()]
    return [(line["train"]["loss"], line["validation"]["loss"]) for line in lines]


def test_a_run_follows_the_curve_of_the_cpu(tmp_path):
    on_gpu = curve_of(train(configure(tmp_path, "gpu")))
    on_cpu = curve_of(train(configure(tmp_path, "cpu", **{"predict.device": "cpu"})))
    assert len(on_gpu) == TINY["train.num_epochs"]
    for ours, theirs in zip(on_gpu, on_cpu):
        assert ours == pytest.approx(theirs, rel=0.02)


@every_type
def test_a_run_in_every_type_scores_and_says_its_precision(tmp_path, precision):
    need_units_for(DTYPES[precision])
    if precision == "fp16":
        need_a_gpu("training on a CPU refuses float16")
    run = train(configure(tmp_path, "run", **{"train.precision": precision, "train.num_epochs": 2}))
    (last,) = [json.loads(line) for line in (run / "fold_0" / "log.jsonl").read_text().splitlines()][-1:]
    assert 0 <= last["score"]["score"] <= 1
    assert last["precision"]["name"] == precision


def test_a_run_that_goes_on_repeats_an_uninterrupted_one_bit_for_bit(tmp_path):
    """Of ``unet3d``; what does not repeat on a GPU is named in docs/architecture.md."""
    whole = train(configure(tmp_path, "whole", **{"train.num_epochs": 4, "lr.schedule": "warm_restarts"}))
    train(configure(tmp_path, "parts", **{"train.num_epochs": 2, "lr.schedule": "warm_restarts"}))
    longer = configure(tmp_path, "parts_longer", **{"train.num_epochs": 4, "lr.schedule": "warm_restarts"})
    run = train(longer, resume_from=tmp_path / "parts")
    assert curve_of(run)[-2:] == curve_of(whole)[-2:]
