"""The kernel distance (KID, Bińkowski et al. 2018): unlike Fréchet's it has no bias from few images."""

import torch

BLOCK = 2500  # images whose kernel matrices are held at once: 50 MB each


def kernel_distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """The unbiased squared maximum mean discrepancy under the kernel (x·y / d + 1)³, by torch-fidelity.

    Around 0, and as often below as above it, where both sets come from one distribution. As many of each are compared
    as there are in the smaller set: its size cut into equal blocks of at most 2,500, and the mean taken over them. No
    image is in two blocks, unlike in the overlapping subsets that torch-fidelity draws by default.

    Args:
        real, generated: features (n, d) on the scale of `slimdiff.metrics.scaling`, at least 2 of each, their order
            drawn at random: the first are taken.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric  # seconds to import

    m = min(len(real), len(generated))
    blocks = -(-m // BLOCK)
    values = [
        # One subset of everything that it is handed is the estimate from all pairs.
        kid_features_to_metric(ours, theirs, kid_subsets=1, kid_subset_size=len(ours), verbose=False)[
            KEY_METRIC_KID_MEAN
        ]
        for ours, theirs in zip(real[:m].tensor_split(blocks), generated[:m].tensor_split(blocks), strict=True)
    ]
    return float(sum(values) / blocks)
