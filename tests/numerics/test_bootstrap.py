"""The bootstrap's standard deviation of the Fréchet distance against that over fresh draws."""

import pytest
import torch

from slimdiff.metrics import bootstrap
from slimdiff.metrics.bootstrap import fid_indomain_sampling_sd
from slimdiff.metrics.frechet import factor, frechet_distance, statistics
from slimdiff.metrics.reference import Reference

D = 8
NO_LABELS = torch.zeros(0, dtype=torch.int64)


def draws(seed: int, n: int, shift: float) -> torch.Tensor:
    """Return skewed features with a decaying spectrum, as after a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0.5, -0.5, D, dtype=torch.float64)
    return (torch.randn(n, D, dtype=torch.float64, generator=generator) + shift).relu() * scales


def made_reference(count: int) -> Reference:
    known = [statistics(draws(1000 + index, 20_000, 0.0)) for index in range(count)]
    nothing, none = torch.zeros(0), NO_LABELS
    return Reference(
        mean=torch.stack([one.mean for one in known]),
        covariance=torch.stack([one.covariance for one in known]),
        factor=torch.stack([factor(one.covariance) for one in known]),
        class_counts=none,
        class_mean=nothing,
        class_covariance=nothing,
        train_features=nothing,
        train_labels=none,
        test_features=nothing,
        test_labels=none,
        test_nearest=nothing,
        n=20_000,
        dataset="made up",
        extractors_sha256="",
        images_sha256="",
    )


def distance(reference: Reference, features: torch.Tensor) -> float:
    return frechet_distance(reference.statistics(0), statistics(features), reference.factor[0])


@pytest.mark.parametrize(("shift", "low", "high"), [(0.3, 0.85, 1.15), (0.0, 1.4, 2.1)], ids=["away", "at the floor"])
def test_the_deviation_equals_that_of_fresh_draws_and_is_larger_at_the_floor(
    shift: float, low: float, high: float
) -> None:
    """At the floor, where the distance is noise, it is √3 times too large; above it, it is correct."""
    reference = made_reference(1)
    fresh = torch.tensor([distance(reference, draws(seed, 400, shift)) for seed in range(400)])
    found = torch.tensor(
        [fid_indomain_sampling_sd(reference, [draws(seed, 400, shift)], NO_LABELS) for seed in range(20)]
    )
    assert low < (found.mean() / fresh.std()).item() < high


def test_repeating_images_raises_the_distance() -> None:
    """The reason why the mean over draws is not used: at the floor it is about twice the distance."""
    reference, features = made_reference(1), draws(1, 400, 0.0)
    generator = torch.Generator().manual_seed(0)
    again = [distance(reference, features[torch.randint(400, (400,), generator=generator)]) for _ in range(100)]
    assert sum(again) / 100 > 1.5 * distance(reference, features)


def test_a_draw_equals_the_distance_of_its_images() -> None:
    features, chosen = draws(1, 50, 0.3), torch.randint(50, (50,), generator=torch.Generator().manual_seed(0))
    middle = features.mean(dim=0)
    found = bootstrap._resampled(features - middle, middle, chosen.bincount(minlength=50).double())
    expected = statistics(features[chosen])
    assert found.n == expected.n
    assert torch.allclose(found.mean, expected.mean, rtol=1e-12)
    assert torch.allclose(found.covariance, expected.covariance, rtol=1e-10, atol=1e-14)


def test_the_deviation_is_of_the_mean_over_extractors() -> None:
    """Two equal extractors vary together on the same images, so their mean varies as much as one does."""
    features = draws(1, 400, 0.3)
    alone = fid_indomain_sampling_sd(made_reference(1), [features], NO_LABELS)
    same = made_reference(1)
    twice = Reference(**{**same.__dict__, **{k: getattr(same, k).repeat(2, *[1] * (getattr(same, k).ndim - 1))
                                             for k in ("mean", "covariance", "factor")}})  # fmt: skip
    assert fid_indomain_sampling_sd(twice, [features, features], NO_LABELS) == pytest.approx(alone, rel=1e-9)
    independent = fid_indomain_sampling_sd(made_reference(2), [features, draws(2, 400, 0.3)], NO_LABELS)
    assert independent < 0.9 * alone


def test_the_bootstrap_is_deterministic() -> None:
    reference, features = made_reference(1), draws(1, 100, 0.3)
    assert fid_indomain_sampling_sd(reference, [features], NO_LABELS) == fid_indomain_sampling_sd(
        reference, [features], NO_LABELS
    )
