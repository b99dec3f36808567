"""What a person would look at to see why a run does not learn: gradients of the components, and the output, on fixed patches.

Looking changes nothing: no random number is drawn, no gradient is left behind, and the network is put back into its mode.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from vesuvius_kit.constants import SURFACE, UNLABELLED

N_PATCHES = 2
_BINS = 10


def gather_gradient_diagnostics(
    model: nn.Module,
    patches: Sequence[tuple[Tensor, Tensor]],
    components: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Any]]],
    weights: Mapping[str, float],
    gradient_scale: float = 1.0,
) -> dict[str, Any]:
    """Return the gradient of each loss component and the shape of the output, on the same patches every time.

    Parameters
    ----------
    model
        Not wrapped; taken in evaluation mode.
    patches
        Image (1, Z, Y, X) and label (Z, Y, X) on the model's device, labels as the loss sees them. One after the other goes
        through the network, so that this takes no more memory than a batch of one.
    components
        Each ``(logits, labels) -> (total, ...)`` of one component alone, with weight 1.
    weights
        Weight of each component in the loss.
    gradient_scale
        The loss is multiplied by this for the backward pass, against underflow in fp16, and the gradients divided again.

    Returns
    -------
    dict
        ``gradient_norms``: Euclidean norm of each component's gradient over all weights of the network, before weighting;
        ``total_gradient_norm``: of the weighted sum; ``cosines``: between every two, by ``"a,b"``, None where one has no
        gradient; ``output``: mean, std, histogram of 10 equal bins and surface share (p >= 0.5) of the probabilities of the
        labelled voxels, None where there are none; ``label_surface_share``: that of the labels.
    """
    was_training = model.training
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients: dict[str, Tensor] = {}
    outputs, targets = [], []
    with torch.enable_grad():
        for image, label in patches:
            logits = model(image[None]).float()
            for name, component in components.items():
                value = component(logits, label[None])[0] * (gradient_scale / len(patches))
                parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
                flat = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, parts)]
                # Kept in main memory: several gradients of a large network need not fit beside it on a GPU.
                gradient = torch.cat([part.flatten().float() for part in flat]).cpu() / gradient_scale
                gradients[name] = gradients[name] + gradient if name in gradients else gradient
            labelled = label != UNLABELLED
            outputs.append(logits.detach().sigmoid()[0, 0][labelled].cpu())
            targets.append((label[labelled] == SURFACE).cpu())
    model.train(was_training)
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    total = torch.stack([weights[name] * gradient for name, gradient in gradients.items()]).sum(0)
    cosines: dict[str, float | None] = {}
    for one, other in combinations(sorted(gradients), 2):
        scale = norms[one] * norms[other]
        cosines[f"{one},{other}"] = float(gradients[one] @ gradients[other]) / scale if scale > 0 else None
    target = torch.cat(targets)
    return {
        "gradient_norms": norms,
        "total_gradient_norm": float(total.norm()),
        "cosines": cosines,
        "output": _describe(torch.cat(outputs).double()),
        "label_surface_share": float(target.double().mean()) if len(target) else None,
    }


def _describe(probability: Tensor) -> dict[str, Any] | None:
    if not len(probability):
        return None
    counts = torch.histc(probability, bins=_BINS, min=0.0, max=1.0)
    return {
        "mean": float(probability.mean()),
        "std": float(probability.std(correction=0)),
        "histogram": (counts / len(probability)).tolist(),
        "surface_share": float((probability >= 0.5).double().mean()),
    }
