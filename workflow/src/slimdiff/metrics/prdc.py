"""Whether samples lie among real images, and whether real images lie among samples: neighbourhoods in feature space."""

from dataclasses import dataclass

import torch

from slimdiff.errors import UserError

PRECISION_NEIGHBOUR = 3  # Kynkäänniemi et al. 2019: the balls reach to the third nearest neighbour
COVERAGE_NEIGHBOUR = 5  # Naeem et al. 2020: to the fifth
ROWS = 128  # images whose distances to all others are held at once: in the cache, ten times as many take twice as long


@dataclass(frozen=True)
class Manifold:
    """How two sets of m images each lie to one another. Real images against real ones give about 0.8 to 1 in all four
    (docs/metrics.md); density alone may be above 1."""

    precision: float
    recall: float
    density: float
    coverage: float
    m: int


def manifold(real: torch.Tensor, generated: torch.Tensor) -> Manifold:
    """The four of them, on the first m images of each set, m being the size of the smaller one.

    - precision: share of samples within the ball of any real image; recall: the share of real images within the ball
      of any sample (Kynkäänniemi et al. 2019, eq. 1 and 2; k = 3). Closed balls, as there.
    - density: mean number of real images' balls that a sample is within, divided by k; coverage: share of real images
      whose ball holds any sample (Naeem et al. 2020, eq. 3 and 4; k = 5). Open balls, as in the authors' code, so that
      a set against itself has density 1.

    Args:
        real, generated: features (n, d) on the grid of `slimdiff.metrics.scaling`, which makes distances exact, their
            order drawn at random.

    Raises:
        UserError: too few images for a fifth neighbour.
    """
    m = min(len(real), len(generated))
    if m <= COVERAGE_NEIGHBOUR:
        raise UserError(
            f"{m} images are too few for neighbourhoods of {COVERAGE_NEIGHBOUR}: raise sampling.n_samples, and have at "
            f"least {COVERAGE_NEIGHBOUR + 1} training images"
        )
    real, generated = real[:m], generated[:m]
    precision, recall = share_within(generated, real), share_within(real, generated)
    return Manifold(precision, recall, *density_and_coverage(real, generated), m)


def share_within(points: torch.Tensor, centres: torch.Tensor, k: int = PRECISION_NEIGHBOUR, rows: int = ROWS) -> float:
    """Share of points (m, d) within the ball of any of the centres (n, d), n > k, `rows` centres at a time."""
    within = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for block in centres.split(rows):
        within |= (squared_distances(block, points) <= _squared_radii(block, centres, k)).any(dim=0)
    return int(within.sum()) / len(points)


def density_and_coverage(
    real: torch.Tensor, generated: torch.Tensor, k: int = COVERAGE_NEIGHBOUR, rows: int = ROWS
) -> tuple[float, float]:
    """Naeem et al. 2020, eq. 3 and 4, from real (n, d) and generated (m, d), n > k, `rows` real images at a time."""
    within, covered = 0, 0
    for block in real.split(rows):
        inside = squared_distances(block, generated) < _squared_radii(block, real, k)
        within += int(inside.sum())
        covered += int(inside.any(dim=1).sum())
    return within / (k * len(generated)), covered / len(real)


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|a_i - b_j|² of a (n, d) and b (m, d), as (n, m); exact for points of the grid."""
    return a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.T)


def _squared_radii(block: torch.Tensor, points: torch.Tensor, k: int) -> torch.Tensor:
    """Squared distance of each of some points to the k-th nearest other one of `points`: (n, 1)."""
    return squared_distances(block, points).topk(k + 1, dim=1, largest=False).values[:, k:]  # the nearest is itself
