"""Choices of compression and training that a config is checked for. Free of torch, as the rules must be.

slimdiff.compression and slimdiff.training.optimizers hold the functions, under the same names.
"""

IMPORTANCES = ("l1", "taylor", "diff-pruning", "random")  # of channels
LOSS_IMPORTANCES = ("taylor", "diff-pruning")  # need a loss on images, which a recipe does not have
WEIGHT_IMPORTANCES = tuple(name for name in IMPORTANCES if name not in LOSS_IMPORTANCES)
FLOAT_ONLY = ("muon",)  # optimizers without a state in 8 bits
