"""Precision, recall, density and coverage: how samples and real images overlap in feature space."""

from dataclasses import dataclass

import torch

from slimdiff.catalog.limits import NEIGHBOURS
from slimdiff.errors import UserError

PRECISION_NEIGHBOUR = 3  # radius of a ball: the third nearest neighbour (Kynkäänniemi et al. 2019)
ROWS = 128  # images per block of distances: fits in the cache; ten times as many take twice as long


@dataclass(frozen=True)
class Prdc:
    """Precision, recall, density and coverage of m samples against m real images.

    Real images against real ones score about 0.8 to 1 in all four (docs/metrics.md); only density can exceed 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    m: int


def compute_prdc(real: torch.Tensor, generated: torch.Tensor) -> Prdc:
    """Compare the first m images of each set, m being the size of the smaller one.

    - precision: share of samples within the ball of any real image; recall: share of real images within the ball of
      any sample (Kynkäänniemi et al. 2019, eq. 1 and 2; k = 3). Closed balls, as there.
    - density: mean number of real images' balls that contain a sample, divided by k; coverage: share of real images
      whose ball contains any sample (Naeem et al. 2020, eq. 3 and 4; k = 5). Open balls, as in the authors' code, so
      that a set against itself has density 1.

    Args:
        real, generated: features (n, d) on the grid of `slimdiff.metrics.reference`, which makes distances exact, in
            random order.

    Raises:
        UserError: there are too few images for a fifth neighbour.
    """
    m = min(len(real), len(generated))
    if m <= NEIGHBOURS:
        raise UserError(
            f"{len(real)} real images and {len(generated)} samples are too few for neighbourhoods of {NEIGHBOURS}; "
            f"allowed: {NEIGHBOURS + 1} or more of each. Real images have the samples' classes, so a rare class limits "
            "both: add training images of it, or set config key sampling.labels to training"
        )
    real, generated = real[:m], generated[:m]
    precision, recall = share_within(generated, real), share_within(real, generated)
    return Prdc(precision, recall, *density_and_coverage(real, generated), m)


def share_within(points: torch.Tensor, centres: torch.Tensor, k: int = PRECISION_NEIGHBOUR, rows: int = ROWS) -> float:
    """Return the share of points (m, d) within the ball of any of the centres (n, d), n > k, in blocks of `rows`."""
    within = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for block in centres.split(rows):
        within |= (squared_distances(block, points) <= _squared_radii(block, centres, k)).any(dim=0)
    return int(within.sum()) / len(points)


def density_and_coverage(
    real: torch.Tensor, generated: torch.Tensor, k: int = NEIGHBOURS, rows: int = ROWS
) -> tuple[float, float]:
    """Return density and coverage of generated (m, d) against real (n, d), n > k, in blocks of `rows`."""
    within, covered = 0, 0
    for block in real.split(rows):
        inside = squared_distances(block, generated) < _squared_radii(block, real, k)
        within += int(inside.sum())
        covered += int(inside.any(dim=1).sum())
    return within / (k * len(generated)), covered / len(real)


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return |a_i - b_j|² of a (n, d) and b (m, d), as (n, m); exact for points on the grid."""
    return a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.T)


def _squared_radii(block: torch.Tensor, points: torch.Tensor, k: int) -> torch.Tensor:
    """Return the squared distance of each point of `block` to its k-th nearest neighbour in `points`: (n, 1)."""
    return (
        squared_distances(block, points).topk(k + 1, dim=1, largest=False).values[:, k:]
    )  # the nearest is the point itself
