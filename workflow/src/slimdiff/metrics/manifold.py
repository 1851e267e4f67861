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
      of any sample (Kynkäänniemi et al. 2019, eq. 1 and 2, by torch-fidelity; k = 3).
    - density: mean number of real images' balls that a sample is within, divided by k; coverage: share of real images
      whose ball holds any sample (Naeem et al. 2020, eq. 3 and 4; k = 5). Open balls, as in the authors' code, so that
      a set against itself has density 1.

    Args:
        real, generated: features (n, d) on the grid of `slimdiff.metrics.scaling`, which makes distances exact, their
            order drawn at random.

    Raises:
        UserError: too few images for a fifth neighbour.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    m = min(len(real), len(generated))
    if m <= COVERAGE_NEIGHBOUR:
        raise UserError(
            f"{m} images are too few for neighbourhoods of {COVERAGE_NEIGHBOUR}: raise sampling.n_samples, and have at "
            f"least {COVERAGE_NEIGHBOUR + 1} training images"
        )
    real, generated = real[:m], generated[:m]
    # torch-fidelity up to 0.3 had the two sets the other way round.
    found = prc_features_to_metric(
        generated,
        real,
        prc_neighborhood=PRECISION_NEIGHBOUR,
        prc_batch_size=ROWS,
        save_cpu_ram=True,  # in blocks of so many rows
        verbose=False,
    )
    # Shares of m images, which it takes in single precision.
    precision, recall = (round(found[key] * m) / m for key in (KEY_METRIC_PRECISION, KEY_METRIC_RECALL))
    return Manifold(precision, recall, *density_and_coverage(real, generated), m)


def density_and_coverage(
    real: torch.Tensor, generated: torch.Tensor, k: int = COVERAGE_NEIGHBOUR, rows: int = ROWS
) -> tuple[float, float]:
    """Naeem et al. 2020, eq. 3 and 4, from real (n, d) and generated (m, d), n > k, `rows` real images at a time."""
    within, covered = 0, 0
    for block in real.split(rows):
        # The nearest is the image itself.
        radius = squared_distances(block, real).topk(k + 1, dim=1, largest=False).values[:, k:]
        inside = squared_distances(block, generated) < radius
        within += int(inside.sum())
        covered += int(inside.any(dim=1).sum())
    return within / (k * len(generated)), covered / len(real)


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|a_i - b_j|² of a (n, d) and b (m, d), as (n, m); exact for points of the grid."""
    return a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.T)
