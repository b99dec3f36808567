"""The weighted sum of loss components that a run trains on."""

from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from vesuvius_kit.checks import InputTypeError, InputValueError, check_choice, check_integer, check_real
from vesuvius_kit.losses import functional

COMPONENTS = ("boundary", "cldice", "connectivity", "cross_entropy", "dice", "focal", "variance")


class WeightedLoss(nn.Module):
    """Weighted sum of named components: dice, focal, boundary, variance, cldice, connectivity, cross_entropy.

    Each component is a mean over a sample's labelled voxels, then over the batch; label 2 is ignored exactly. A sample
    that is all 2 contributes a zero to that mean: it counts in the batch size. The object holds no weights of a
    network and no state: a schedule of weights over epochs makes a new one for each epoch.

    Parameters
    ----------
    weights : mapping of str to float
        Component name to weight, each >= 0 and not all 0; a component with weight 0 or left out is not computed.
    focal_gamma : float
        See `functional.focal_loss`.
    focal_alpha : float
        See `functional.focal_loss`.
    class_weights : tuple of float
        Of background and surface; they multiply the focal component only.
    cldice_iterations : int
        See `functional.cldice_loss`.
    report : collection of str
        Components to compute for the log although their weight is 0.

    Raises
    ------
    InputTypeError, InputValueError
        An unknown name, a negative weight, no weight above 0, a setting outside its range.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        focal_gamma: float = 2.0,
        focal_alpha: float = 0.35,
        class_weights: tuple[float, float] = (1.0, 1.5),
        cldice_iterations: int = 3,
        report: Collection[str] = (),
    ):
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
        functions = {
            "boundary": functional.boundary_loss,
            "cldice": partial(functional.cldice_loss, iterations=iterations),
            "connectivity": functional.connectivity_loss,
            "cross_entropy": functional.cross_entropy_loss,
            "dice": functional.dice_loss,
            "focal": focal,
            "variance": functional.variance_loss,
        }
        self.weights = {name: weight for name, weight in checked.items() if weight > 0}
        self._settings = {
            "focal_gamma": focal_gamma,
            "focal_alpha": focal_alpha,
            "class_weights": class_weights,
            "cldice_iterations": cldice_iterations,
        }
        self._functions = {name: functions[name] for name in COMPONENTS if name in self.weights or name in report}

    def alone(self, name: str) -> "WeightedLoss":
        """Return the loss of one component with weight 1 and the same settings.

        Parameters
        ----------
        name : str
            One of `COMPONENTS`.

        Returns
        -------
        WeightedLoss

        Raises
        ------
        InputValueError
            An unknown name.
        """
        return WeightedLoss({name: 1.0}, **self._settings)

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and its components.

        Parameters
        ----------
        logits : torch.Tensor
            float (B, 1, Z, Y, X); computed in float32 (float64 stays), whatever autocast says.
        labels : torch.Tensor
            integer (B, Z, Y, X); 0 background, 1 surface, 2 unlabelled.

        Returns
        -------
        total : torch.Tensor
            0-d, with a gradient; a batch without any labelled voxel gives 0 with zero gradients.
        components : dict of str to torch.Tensor
            Name to detached 0-d value before weighting, for each weight above 0 and each name of `report`.

        Raises
        ------
        InputTypeError, InputValueError
            Tensors of the wrong kind or shape, a label value outside 0 to 2.
        """
        components = {}
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
