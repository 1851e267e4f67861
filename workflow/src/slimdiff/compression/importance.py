"""Importance of channels by name: from the weights alone, or from the estimated loss of a removal.

The scores are torch-pruning's (Fang et al. 2023, "DepGraph"): a sum over all weights that are removed with a channel.
This module computes the gradients that some of them need.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn

from slimdiff.catalog.compression import LOSS_IMPORTANCES, WEIGHT_IMPORTANCES
from slimdiff.errors import UserError

# Return the mean loss of some images at one noise level, with its graph; the same value at every call.
LevelLoss = Callable[[], torch.Tensor]

# torch-pruning's class by name:
# - l1: sum of |w| over the removed weights (Li et al. 2017, "Pruning filters for efficient ConvNets").
# - taylor: sum of |w · dL/dw|, with the loss summed over all noise levels (Molchanov et al. 2019).
# - diff-pruning: taylor without unimportant noise levels (Fang et al. 2023, see `accumulate_gradients`).
# - random: uniform, the control.
IMPORTANCES: dict[str, Callable[[], Callable[[Any], torch.Tensor]]] = {
    "l1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
    "taylor": torch_pruning.importance.GroupTaylorImportance,
    "diff-pruning": torch_pruning.importance.GroupTaylorImportance,
    "random": torch_pruning.importance.RandomImportance,
}


def accumulate_gradients(network: nn.Module, losses: Sequence[LevelLoss], threshold: float) -> list[float]:
    """Accumulate in `.grad` the sum of dL_t/dw over the noise levels t with L_t / L_max > threshold.

    Diff-Pruning (Fang, Ma and Wang 2023, "Structural pruning for diffusion models", NeurIPS, §4.2: "Taylor expansion
    over pruned timesteps"): I(w) = |w · sum over {t: L_t / L_max > T} of dL_t/dw|, since timesteps with a small loss
    contribute noise rather than information. Their code stops at the first small loss, which is equivalent if the loss
    falls with t. EDM's loss is largest at both ends, so here every level is tested, in a first pass without gradients.
    A threshold of 0 keeps all levels: plain Taylor.

    Args:
        losses: one per noise level.
        threshold: T, 0 to below 1.

    Returns:
        L_t / L_max of every level, in the order of `losses`.
    """
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        values = [float(loss()) for loss in losses]
    largest = max(values)
    relative = [value / largest for value in values]
    for loss, share in zip(losses, relative, strict=True):
        if share > threshold:
            loss().backward()
    return relative


def score_by(
    name: str, network: nn.Module, threshold: float | None, losses: Sequence[LevelLoss] | None
) -> Callable[[Any], torch.Tensor]:
    """Return the function that scores each channel of a torch-pruning group.

    Raises:
        UserError: the importance is unknown or lacks its losses, or the threshold is not allowed.
    """
    if name not in IMPORTANCES:
        raise UserError(f"prune.importance is {name!r}; allowed: {', '.join(IMPORTANCES)}")
    if (name == "diff-pruning") != (threshold is not None):
        allowed = "a number from 0 to below 1" if name == "diff-pruning" else "none, only diff-pruning takes one"
        raise UserError(f"prune.threshold is {threshold} with importance {name}; allowed: {allowed}")
    if threshold is not None and not 0.0 <= threshold < 1.0:
        raise UserError(f"prune.threshold is {threshold}; allowed: 0 to below 1")
    if name in LOSS_IMPORTANCES:
        if losses is None:
            raise UserError(
                f"prune.importance is {name!r}, which needs images; allowed in a recipe: "
                f"{', '.join(WEIGHT_IMPORTANCES)}; to use it, prune in a training with a start (trainings.*.start with "
                "prune)"
            )
        relative = accumulate_gradients(network, losses, threshold or 0.0)
        kept = sum(share > (threshold or 0.0) for share in relative)
        print(f"importance {name}: gradients of {kept} of {len(relative)} noise levels", flush=True)
    return IMPORTANCES[name]()
