"""The weighted sum of loss components that a run trains on."""

from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from vesuvius_kit.checks import InputTypeError, InputValueError, check_choice, check_integer, check_real
from vesuvius_kit.config import LossConfig
from vesuvius_kit.constants import COMPONENTS
from vesuvius_kit.losses import functional


class WeightedLoss(nn.Module):
    """Weighted sum of named components: dice, focal, boundary, variance, cldice, connectivity, cross_entropy.

    Each component is a mean over a sample's labelled voxels, then over the batch; label 2 is ignored exactly. A sample
    that is all 2 contributes a zero to that mean: it counts in the batch size. The object holds no weights of a
    network and no state: a schedule of weights over epochs makes a new one for each epoch.

    Parameters
    ----------
    weights
        Component name to weight, each >= 0 and not all 0; a component with weight 0 or left out is not computed.
    focal_gamma, focal_alpha
        See `functional.focal_loss`.
    class_weights
        Of background and surface; they multiply the focal component only.
    cldice_iterations
        See `functional.cldice_loss`.
    report
        Components to compute for the log although their weight is 0.

    Examples
    --------
    >>> import torch
    >>> import vesuvius_kit as vk
    >>> loss = vk.WeightedLoss({"dice": 1.0, "cross_entropy": 0.5})
    >>> logits = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
    >>> labels = torch.tensor([[[[0, 1], [2, 0]], [[1, 0], [2, 2]]]])
    >>> total, components = loss(logits, labels)
    >>> {name: round(float(value), 3) for name, value in components.items()}
    {'cross_entropy': 0.693, 'dice': 0.556}
    >>> round(float(total.detach()), 3)
    0.902
    >>> total.backward()
    >>> bool((logits.grad[0, 0][labels[0] == 2] == 0).all())  # no gradient where unlabelled
    True
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        focal_gamma: float = LossConfig.focal_gamma,
        focal_alpha: float = LossConfig.focal_alpha,
        class_weights: tuple[float, float] = LossConfig.class_weights,
        cldice_iterations: int = 3,
        report: Collection[str] = (),
    ) -> None:
        super().__init__()
        if not isinstance(weights, Mapping):
            raise InputTypeError(f"loss weights must be a mapping of names to numbers, got {type(weights).__name__}")
        if isinstance(report, str):
            raise InputTypeError(f"report must be a collection of component names, got {report!r}")
        for name in (*weights, *report):
            check_choice("loss component", name, COMPONENTS)
        checked = {name: check_real(f"{name}_weight", weight, minimum=0.0) for name, weight in weights.items()}
        if not any(checked.values()):
            raise InputValueError(f"loss weights must have one above 0, got {checked}")
        focal = partial(
            functional.focal_loss,
            gamma=check_real("focal_gamma", focal_gamma, minimum=0.0),
            alpha=check_real("focal_alpha", focal_alpha, minimum=0.0, maximum=1.0),
            class_weights=functional.check_class_weights(class_weights),
        )
        iterations = check_integer("cldice_iterations", cldice_iterations, minimum=0)
        functions: dict[str, Callable[[functional.LabelledVoxels], Tensor]] = {
            "boundary": functional.boundary_loss,
            "cldice": partial(functional.cldice_loss, iterations=iterations),
            "connectivity": functional.connectivity_loss,
            "cross_entropy": functional.cross_entropy_loss,
            "dice": functional.dice_loss,
            "focal": focal,
            "variance": functional.variance_loss,
        }
        self.weights = {name: weight for name, weight in checked.items() if weight > 0}
        self._with_weights = partial(
            WeightedLoss,
            focal_gamma=focal_gamma,
            focal_alpha=focal_alpha,
            class_weights=class_weights,
            cldice_iterations=cldice_iterations,
        )
        self._functions = {name: functions[name] for name in COMPONENTS if name in self.weights or name in report}

    def alone(self, name: str) -> "WeightedLoss":
        """Return the loss of one of `COMPONENTS` with weight 1 and the same settings."""
        return self._with_weights({name: 1.0})

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum, 0-d with a gradient, and its components by name.

        Those are detached 0-d values before weighting, one for each weight above 0 and each name of `report`. A batch without
        any labelled voxel gives 0 with zero gradients.

        Parameters
        ----------
        logits
            Floating, (B, 1, Z, Y, X); computed in float32 (float64 stays), whatever autocast says.
        labels
            Integer, (B, Z, Y, X); 0 background, 1 surface, 2 unlabelled.
        """
        components: dict[str, Tensor] = {}
        with torch.autocast(logits.device.type, enabled=False):
            voxels = functional.select_labelled(logits, labels)
            total = voxels.logits.new_zeros(())
            for name, function in self._functions.items():
                weight = self.weights.get(name, 0.0)
                with torch.set_grad_enabled(weight > 0 and torch.is_grad_enabled()):
                    value = function(voxels).mean()
                if weight > 0:
                    total = total + weight * value
                components[name] = value.detach()
        return total, components
