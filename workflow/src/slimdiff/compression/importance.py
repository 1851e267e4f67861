"""How much a channel matters, by name: of its weights alone, or of the loss that its removal would cost.

The scores are torch-pruning's (Fang et al. 2023, "DepGraph"): of all the layers that lose something with a channel, the
sum over their weights. What is done here is to give them the gradients that they want.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn

from slimdiff.errors import UserError

# The mean loss of some images at one noise level, with its graph; the same value at every call.
LevelLoss = Callable[[], torch.Tensor]

# By name, torch-pruning's class:
# - l1: sum of |w| over the weights that go (Li et al. 2017, "Pruning filters for efficient ConvNets").
# - taylor: sum of |w · dL/dw|, the loss summed over all noise levels (Molchanov et al. 2019).
# - diff-pruning: the same without the noise levels that matter little (Fang et al. 2023, see `accumulate_gradients`).
# - random: uniform, by the seed. What every other has to beat.
IMPORTANCES: dict[str, Callable[[], Callable[[Any], torch.Tensor]]] = {
    "l1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
    "taylor": torch_pruning.importance.GroupTaylorImportance,
    "diff-pruning": torch_pruning.importance.GroupTaylorImportance,
    "random": torch_pruning.importance.RandomImportance,
}
OF_LOSSES = ("taylor", "diff-pruning")


def accumulate_gradients(network: nn.Module, losses: Sequence[LevelLoss], threshold: float) -> list[float]:
    """Leave in `.grad` the sum over noise levels t of dL_t/dw, of those with L_t / L_max > threshold.

    Diff-Pruning (Fang, Ma and Wang 2023, "Structural pruning for diffusion models", NeurIPS, §4.2: "Taylor expansion
    over pruned timesteps"): I(w) = |w · sum over {t: L_t / L_max > T} of dL_t/dw|, since steps whose loss is small
    contribute noise rather than information. Their code goes through t upwards and stops at the first small loss, which
    is the same where the loss falls with t; here it need not (EDM's is largest at both ends), so every level is judged
    by itself, in a first pass without gradients. A threshold of 0 keeps all levels: plain Taylor.

    Args:
        losses: one for each noise level.
        threshold: T, 0 up to, but not including, 1.

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
    """The function that gives each channel of a torch-pruning group its score, ready to be called.

    Raises:
        UserError: an importance that is unknown, that needs losses where there are none, or a threshold out of place.
    """
    if name not in IMPORTANCES:
        raise UserError(f"prune.importance is {name!r}; allowed: {', '.join(IMPORTANCES)}")
    if (name == "diff-pruning") != (threshold is not None):
        wanted = "a number from 0 to below 1" if name == "diff-pruning" else "none, it is diff-pruning's alone"
        raise UserError(f"prune.threshold is {threshold} with importance {name}; allowed: {wanted}")
    if threshold is not None and not 0.0 <= threshold < 1.0:
        raise UserError(f"prune.threshold is {threshold}; allowed: 0 up to, but not including, 1")
    if name in OF_LOSSES:
        if losses is None:
            free = ", ".join(known for known in IMPORTANCES if known not in OF_LOSSES)
            raise UserError(
                f"prune.importance is {name!r}, which needs images; allowed in a recipe: {free}; to use it, prune in "
                "a training that starts from another one (trainings.*.start with prune)"
            )
        relative = accumulate_gradients(network, losses, threshold or 0.0)
        kept = sum(share > (threshold or 0.0) for share in relative)
        print(f"importance {name}: gradients of {kept} of {len(relative)} noise levels", flush=True)
    return IMPORTANCES[name]()
