"""The loss components as pure functions of the labelled voxels; every result has one value for each sample.

All of them see logits through `LabelledVoxels`, which is where label 2 (unlabelled) ends: its logits are replaced before
anything is computed, so that whatever stands there, NaN included, changes neither a value nor a gradient. Means are
taken over a sample's labelled voxels; a sample without any gives 0, and counts as 0 in a mean over the batch.
"""

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vesuvius_kit.checks import InputTypeError, InputValueError, check_integer, check_real
from vesuvius_kit.config import LossConfig
from vesuvius_kit.constants import SURFACE, UNLABELLED

EPSILON = 1e-5
"""Keeps ratios of sums defined where both are empty."""
BOUNDARY_FULL = 3
"""Voxels up to this distance from the boundary count fully in `boundary_loss`."""
BOUNDARY_NONE = 5
"""Voxels from this distance on do not count in `boundary_loss`."""


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledVoxels:
    """A batch of logits and labels, ready for the components; made by `select_labelled`."""

    logits: Tensor
    """(B, 1, Z, Y, X), float32 or float64; 0 where unlabelled, without a gradient there."""
    target: Tensor
    """Of the same shape and dtype; 1 on surface, 0 on background and where unlabelled."""
    labelled: Tensor
    """Of the same shape and dtype; 1 where labelled, else 0."""

    @functools.cached_property
    def count(self) -> Tensor:
        """(B,) number of labelled voxels, at least 1 so that it can divide."""
        return self.labelled.sum((1, 2, 3, 4)).clamp(min=1)

    @functools.cached_property
    def probability(self) -> Tensor:
        """(B, 1, Z, Y, X) sigmoid of the logits, 0 where unlabelled."""
        return torch.sigmoid(self.logits) * self.labelled

    @functools.cached_property
    def cross_entropy(self) -> Tensor:
        """(B, 1, Z, Y, X) binary cross-entropy in nats, 0 where unlabelled."""
        return F.binary_cross_entropy_with_logits(self.logits, self.target, reduction="none") * self.labelled

    def average(self, values: Tensor) -> Tensor:
        """Return the mean of (B, 1, Z, Y, X) values, 0 where unlabelled, over each sample's labelled voxels, (B,)."""
        return values.sum((1, 2, 3, 4)) / self.count


def select_labelled(logits: Tensor, labels: Tensor) -> LabelledVoxels:
    """Check a batch and take the unlabelled voxels out of it.

    Parameters
    ----------
    logits
        Floating, (B, 1, Z, Y, X); half precision is widened to float32.
    labels
        Integer, (B, Z, Y, X), on the same device; 0 background, 1 surface, 2 unlabelled.
    """
    for name, tensor in (("logits", logits), ("labels", labels)):
        if not isinstance(tensor, Tensor):
            raise InputTypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not logits.is_floating_point():
        raise InputTypeError(f"logits must be floating, got {logits.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputTypeError(f"labels must be integers, got {labels.dtype}")
    if logits.ndim != 5 or logits.shape[1] != 1 or logits.numel() == 0:
        raise InputValueError(f"logits must have the shape (B, 1, Z, Y, X) and hold voxels, got {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise InputValueError(
            f"labels must have the shape (B, Z, Y, X) of the logits {tuple(logits.shape)}, got {tuple(labels.shape)}"
        )
    lowest, highest = (int(value) for value in torch.aminmax(labels))
    if lowest < 0 or highest > UNLABELLED:
        wrong = lowest if lowest < 0 else highest
        raise InputValueError(f"labels must be 0, 1 or 2, got {wrong}")
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    labels = labels.unsqueeze(1)
    labelled = labels != UNLABELLED
    # Not a product with the mask: that would let an infinity or a NaN through.
    logits = torch.where(labelled, logits.to(dtype), torch.zeros((), dtype=dtype, device=logits.device))
    return LabelledVoxels(logits, (labels == SURFACE).to(dtype), labelled.to(dtype))


def dice_loss(voxels: LabelledVoxels) -> Tensor:
    """Return one minus the soft Dice overlap (Milletari et al., 3DV 2016, without their squares), (B,) in [0, 1]."""
    p, t = voxels.probability, voxels.target
    over = (1, 2, 3, 4)
    return 1 - (2 * (p * t).sum(over) + EPSILON) / (p.sum(over) + t.sum(over) + EPSILON)


def cross_entropy_loss(voxels: LabelledVoxels) -> Tensor:
    """Return the mean binary cross-entropy, (B,) in nats."""
    return voxels.average(voxels.cross_entropy)


def focal_loss(
    voxels: LabelledVoxels,
    *,
    gamma: float = LossConfig.focal_gamma,
    alpha: float = LossConfig.focal_alpha,
    class_weights: tuple[float, float] = LossConfig.class_weights,
) -> Tensor:
    """Return the focal loss (Lin et al., ICCV 2017): the mean of c_t a_t (1 - p_t)^gamma times the cross-entropy, (B,).

    The mean divides by the number of voxels, not by the sum of the weights.

    Parameters
    ----------
    gamma
        How strongly voxels that are already right are played down, >= 0.
    alpha
        a_t on surface, in [0, 1]; it is 1 - `alpha` on background.
    class_weights
        c_t on background and on surface, >= 0.
    """
    gamma = check_real("focal_gamma", gamma, minimum=0.0)
    alpha = check_real("focal_alpha", alpha, minimum=0.0, maximum=1.0)
    background_weight, surface_weight = check_class_weights(class_weights)
    surface = voxels.target > 0.5
    on_surface, on_background = alpha * surface_weight, (1 - alpha) * background_weight
    weight = on_background + (on_surface - on_background) * voxels.target
    # log(1 - p_t): a power of it is safe where p_t is 1 in floating point, and so is its gradient.
    log_wrong = F.logsigmoid(torch.where(surface, -voxels.logits, voxels.logits))
    return voxels.average(weight * torch.exp(gamma * log_wrong) * voxels.cross_entropy)


def check_class_weights(class_weights: Sequence[float]) -> tuple[float, float]:
    """Return the weights of background and surface, each >= 0, as floats."""
    if not isinstance(class_weights, (tuple, list)) or len(class_weights) != 2:
        raise InputValueError(f"class_weights must be two numbers (background, surface), got {class_weights!r}")
    background, surface = (
        check_real(f"class_weights[{i}]", value, minimum=0.0) for i, value in enumerate(class_weights)
    )
    return background, surface


def _shrink_along(axis: int, squared: Tensor) -> Tensor:
    """One pass of the separable squared distance transform: minimum over shifts k of the distance plus k^2."""
    result = squared.clone()
    for shift in range(1, min(BOUNDARY_NONE, squared.shape[axis])):
        length = squared.shape[axis] - shift
        low, high = squared.narrow(axis, 0, length), squared.narrow(axis, shift, length)
        near_low, near_high = result.narrow(axis, 0, length), result.narrow(axis, shift, length)
        torch.minimum(near_low, high + shift * shift, out=near_low)
        torch.minimum(near_high, low + shift * shift, out=near_high)
    return result


@torch.no_grad()
def weigh_boundary(voxels: LabelledVoxels) -> Tensor:
    """Return how much each voxel counts in the boundary component, (B, 1, Z, Y, X) in the dtype of the logits.

    1 for d <= 3, falling linearly to 0 at d = 5, where d is the exact Euclidean distance, in voxels, to the nearest
    labelled voxel of the other class within the sample. 0 where unlabelled, and throughout a sample of one class. A surface
    has no boundary where it ends at unlabelled voxels.
    """
    # Three passes of shifted minima (Felzenszwalb and Huttenlocher, 2012), in 8-bit integers: distances end at 5.
    farthest = BOUNDARY_NONE**2
    surface = voxels.target > 0.5
    background = (voxels.labelled > 0.5) & ~surface
    squared = torch.where(torch.cat([surface, background], dim=1), 0, farthest).to(torch.uint8)
    for axis in (4, 3, 2):
        squared = _shrink_along(axis, squared)
    to_surface, to_background = squared[:, :1], squared[:, 1:]
    distance = torch.where(surface, to_background, to_surface).to(voxels.logits.dtype).sqrt()
    weight = ((BOUNDARY_NONE - distance) / (BOUNDARY_NONE - BOUNDARY_FULL)).clamp(0, 1)
    return weight * voxels.labelled


def boundary_loss(voxels: LabelledVoxels) -> Tensor:
    """Return the mean cross-entropy near the target's boundary, weighted by `weigh_boundary`, (B,) in nats.

    0 for a sample without a boundary.
    """
    weight = weigh_boundary(voxels)
    total = weight.sum((1, 2, 3, 4))
    # One voxel at least weighs 1 wherever there is a boundary.
    return (weight * voxels.cross_entropy).sum((1, 2, 3, 4)) / total.clamp(min=1)


def variance_loss(voxels: LabelledVoxels) -> Tensor:
    """Return (1 - Var(p))^2 + max(0, 0.5 - H(p)), the term that rewards uncertainty in the plateau case.

    Var is the population variance of p and H the mean binary entropy in nats. The first part cannot fall under 0.5625,
    since Var cannot pass 0.25; the second punishes decided outputs. (B,) in [0.5625, 1.5], or 0 for a sample without
    labelled voxels.
    """
    p = voxels.probability
    mean = voxels.average(p).view(-1, 1, 1, 1, 1)
    variance = voxels.average((p - mean).square() * voxels.labelled)
    entropy = p * F.softplus(-voxels.logits) + torch.sigmoid(-voxels.logits) * F.softplus(voxels.logits)
    entropy = voxels.average(entropy * voxels.labelled)
    has_labels = voxels.labelled.amax((1, 2, 3, 4))
    return ((1 - variance).square() + (0.5 - entropy).clamp(min=0)) * has_labels


def _erode(x: Tensor) -> Tensor:
    """Soft erosion by the 6-connected cross: the minimum over three lines of 3 voxels."""
    x = -x
    lines = [F.max_pool3d(x, edges, stride=1, padding=[edge // 2 for edge in edges]) for edges in _LINES]
    return -functools.reduce(torch.maximum, lines)


_LINES = ((3, 1, 1), (1, 3, 1), (1, 1, 3))


def _dilate(x: Tensor) -> Tensor:
    """Soft dilation by the 3^3 cube."""
    return F.max_pool3d(x, 3, stride=1, padding=1)


def _skeletonise(x: Tensor, iterations: int) -> Tensor:
    """Soft skeleton: what an opening takes away, collected over repeated erosions."""
    eroded = _erode(x)
    skeleton = F.relu(x - _dilate(eroded))
    for _ in range(iterations):
        x, eroded = eroded, _erode(eroded)
        ridge = F.relu(x - _dilate(eroded))
        skeleton = skeleton + F.relu(ridge - skeleton * ridge)
    return skeleton


def cldice_loss(voxels: LabelledVoxels, *, iterations: int = 3) -> Tensor:
    """Return one minus the soft centreline Dice (Shit et al., CVPR 2021), (B,) in [0, 1].

    The harmonic mean of how much of the prediction's soft skeleton lies in the target and how much of the target's
    lies in the prediction; both ratios are smoothed by e = 1e-5. Unlabelled voxels count as background under the
    pooling windows and are left out of the sums. Structures up to twice as many voxels thick as there are
    ``iterations`` of the erosion are thinned fully.
    """
    check_integer("cldice_iterations", iterations, minimum=0)
    p, t = voxels.probability, voxels.target
    over = (1, 2, 3, 4)
    p_skeleton = _skeletonise(p, iterations) * voxels.labelled
    t_skeleton = _skeletonise(t, iterations) * voxels.labelled
    precision = ((p_skeleton * t).sum(over) + EPSILON) / (p_skeleton.sum(over) + EPSILON)
    sensitivity = ((t_skeleton * p).sum(over) + EPSILON) / (t_skeleton.sum(over) + EPSILON)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def connectivity_loss(voxels: LabelledVoxels) -> Tensor:
    """Return the mean squared difference of prediction and target after a maximum over 3^3 voxels, (B,) in [0, 1].

    Unlabelled voxels count as background under the windows and are left out of the mean.
    """
    difference = _dilate(voxels.probability) - _dilate(voxels.target)
    return voxels.average(difference.square() * voxels.labelled)
