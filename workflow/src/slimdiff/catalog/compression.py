"""Choices of compression and training that a config is checked for. Free of torch, as the rules must be.

slimdiff.compression and slimdiff.training.optimizers hold the functions, under the same names.
"""

from collections.abc import Mapping
from typing import Any

IMPORTANCES = ("l1", "taylor", "diff-pruning", "random")  # of channels
LOSS_IMPORTANCES = ("taylor", "diff-pruning")  # need a loss on images, which a recipe does not have
WEIGHT_IMPORTANCES = tuple(name for name in IMPORTANCES if name not in LOSS_IMPORTANCES)
FLOAT_ONLY = ("muon",)  # optimizers without a state in 8 bits


def measures_loss(prune: Mapping[str, Any]) -> bool:
    """Return whether the `prune` of a recipe measures a loss on training images."""
    return prune.get("allocation") == "sensitivity" or (prune.get("method") == "blocks" and "names" not in prune)
