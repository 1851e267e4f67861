"""Exact distances to the nearest training image, and the test whether samples are too close to training images."""

import numpy as np
import pytest
import scipy.stats
import torch

from slimdiff.errors import UserError
from slimdiff.metrics import memorization as module
from slimdiff.metrics.memorization import (
    Memorization,
    copy_share,
    memorization,
    nearest_distances,
    two_nearest_distances,
)


def pictures(n: int, seed: int, shape: tuple[int, int, int] = (1, 9, 7), least: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(least, 256, (n, *shape), dtype=torch.uint8, generator=generator)


def in_whole_numbers(images: torch.Tensor, training: torch.Tensor) -> torch.Tensor:
    """Return squared distances to the nearest image, one image at a time, in int64."""
    pool = training.flatten(1).to(torch.int64)
    rows = [(pool - image).square().sum(1).min() for image in images.flatten(1).to(torch.int64)]
    return torch.stack(rows)


@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 16, 16), (1, 28, 28)])
@pytest.mark.parametrize("n_training", [1, 3, 4, 5, 200])
def test_distances_are_exact(shape: tuple[int, int, int], n_training: int, device: torch.device) -> None:
    images, training = pictures(50, 1, shape), pictures(n_training, 2, shape)
    found = nearest_distances(images, training, device)
    assert found.dtype == torch.float64
    assert torch.equal(found, in_whole_numbers(images, training).double().sqrt() / 255)


@pytest.mark.parametrize("n_training", [2, 5, 200])
def test_the_second_nearest_is_exact_too(n_training: int, device: torch.device) -> None:
    images, training = pictures(50, 1), pictures(n_training, 2)
    first, second = two_nearest_distances(images, training, device)
    pool = training.flatten(1).to(torch.int64)
    squared = torch.stack([(pool - image).square().sum(1) for image in images.flatten(1).to(torch.int64)])
    expected = squared.sort(dim=1).values[:, :2].double().sqrt() / 255
    assert torch.equal(torch.stack([first, second], dim=1), expected)


def test_one_training_image_has_no_second_nearest() -> None:
    _, second = two_nearest_distances(pictures(5, 1), pictures(1, 2))
    assert bool(second.isinf().all())


def test_copies_are_counted_one_by_one() -> None:
    """Three of a hundred are copies, one of them of two equal training images; the medians do not see them."""
    training = pictures(500, 1)
    training[1] = training[0]
    images = pictures(100, 2)
    images[:2] = training[[0, 7]]
    images[2] = training[9]
    images[2, 0, 0, 0] ^= 1  # one gray level of one pixel
    assert copy_share(*two_nearest_distances(images, training)) == pytest.approx(0.03)
    assert found(nearest_distances(images, training), nearest_distances(pictures(100, 3), training)).ratio > 0.95


@pytest.mark.parametrize(("first", "share"), [(0.34, 0.0), (0.33, 1.0), (0.0, 1.0)])
def test_a_copy_is_less_than_a_third_as_far_as_the_next(first: float, share: float) -> None:
    assert copy_share(torch.tensor([first]).double(), torch.tensor([1.0]).double()) == share
    assert copy_share(torch.zeros(1).double(), torch.zeros(1).double()) == 1.0, "equal training images"


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images, training = pictures(50, 1), pictures(83, 2)
    whole = nearest_distances(images, training)
    monkeypatch.setattr(module, "QUERIES", 7)
    monkeypatch.setattr(module, "POOL", 2)
    assert torch.equal(nearest_distances(images, training), whole)
    order = torch.randperm(83, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest_distances(images, training[order]), whole)


def test_a_copy_is_at_distance_zero() -> None:
    training = pictures(500, 1, (3, 16, 16))
    copies = training[torch.arange(0, 500, 5)].clone()
    assert nearest_distances(copies, training).count_nonzero() == 0
    copies[:, 0, 0, 0] ^= 1  # one gray level of one pixel
    assert torch.equal(nearest_distances(copies, training), torch.full((100,), 1 / 255, dtype=torch.float64))


def test_distances_below_single_precision_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bright training images that differ little from each other, like frames of a film."""
    base = pictures(1, 1, (3, 40, 40), least=200)
    training = base.repeat(60, 1, 1, 1)
    for index, image in enumerate(training.flatten(1)):
        image[: index + 1] ^= 1
    used = set()
    smallest = module._smallest

    def spy(queries: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        used.add(queries.dtype)
        return smallest(queries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_smallest", spy)
    images = training[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert nearest_distances(images, training).count_nonzero() == 0
    assert used == {torch.float32, torch.float64}, "the case must need double precision"
    _, indices = smallest(images.flatten(1).float(), training.flatten(1), norms(training), 4)
    picked = training[indices[:, 0]]
    assert (picked != images).flatten(1).any(1).sum() > 5, "single precision alone picks others"


def norms(training: torch.Tensor) -> torch.Tensor:
    return training.flatten(1).double().square().sum(1)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"images are 1×9×7 \(channels×height×width\), the training images are 1×7×9"):
        nearest_distances(pictures(5, 1), pictures(5, 2, (1, 7, 9)))


def some(n: int, seed: int, middle: float = 4.0) -> torch.Tensor:
    return middle + torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def found(samples: torch.Tensor, test: torch.Tensor) -> Memorization:
    result = memorization(samples, test)
    assert result is not None
    return result


def test_the_p_value_equals_mann_and_whitneys() -> None:
    """From the count of pairs and the normal approximation with continuity correction, without ties."""
    samples, test = some(80, 1, 3.8), some(120, 2)
    nearer = int((samples[:, None] < test[None, :]).sum())  # U of the test images
    mean, sd = 80 * 120 / 2, (80 * 120 * 201 / 12) ** 0.5
    expected = scipy.stats.norm.sf((nearer - mean - 0.5) / sd)
    result = found(samples, test)
    assert result.p == pytest.approx(expected, rel=1e-9)
    assert result.ratio == pytest.approx(np.median(samples) / np.median(test), rel=1e-12)


@pytest.mark.parametrize("digits", [15, 1, 0])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (40, 7), (300, 500)])
def test_the_p_value_is_scipys_to_the_last_bit(n: int, m: int, digits: int) -> None:
    """With no ties, with some, and with many."""
    for seed in range(20):
        samples, test = some(n, seed, 3.9).round(decimals=digits), some(m, seed + 100).round(decimals=digits)
        expected = scipy.stats.mannwhitneyu(samples, test, alternative="less", method="asymptotic").pvalue
        assert found(samples, test).p == expected


def test_closer_samples_are_flagged_and_farther_ones_are_not() -> None:
    test = some(1000, 1)
    assert found(some(500, 2, 3.7), test).p < 1e-6
    assert found(some(500, 2, 4.3), test).p > 1 - 1e-4
    assert found(test, test).p == pytest.approx(0.5, abs=1e-3)
    assert found(test, test).ratio == 1


def test_the_false_positive_rate_is_at_most_the_level() -> None:
    """Unseen real images are flagged at most at the test's level: 5 in 100, here over 400 draws."""
    called = sum(found(some(100, 2 * i), some(200, 2 * i + 1)).p < 0.05 for i in range(400))
    assert scipy.stats.binomtest(called, 400, 0.05).pvalue > 0.01


def test_copies_have_ratio_zero() -> None:
    result = found(torch.zeros(100).double(), some(1000, 1))
    assert result.ratio == 0
    assert result.p < 1e-12


@pytest.mark.parametrize("test", [torch.zeros(0).double(), torch.zeros(9).double()], ids=["none", "copies themselves"])
def test_without_test_images_there_is_no_p_value(test: torch.Tensor) -> None:
    assert memorization(some(10, 1), test) is None
