"""Real images scored as a model's samples get their floor, whatever the shares of their classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimdiff.catalog.compositions import apportion, interleave
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError
from slimdiff.io.samples import Samples
from slimdiff.metrics import bootstrap, reference
from slimdiff.metrics.composition import compose
from slimdiff.metrics.evaluator import Evaluator
from slimdiff.metrics.frechet import statistics
from slimdiff.metrics.kid import kernel_distance, kernel_distance_by_class
from slimdiff.metrics.networks import classifier, extractors
from slimdiff.metrics.networks.base import ImageClassifier
from slimdiff.metrics.score import score

RESOURCES = Path(__file__).parents[2] / "workflow" / "resources"
CPU = torch.device("cpu")
NONE = torch.zeros(0, dtype=torch.int64)
Labelled = tuple[torch.Tensor, torch.Tensor]
COVERAGE = 0.969  # of two equal sets: a ball with five of one set has none of the other, 1 - 2^-5


class Pixels(ImageClassifier):
    """8×8 pixels as features, and the nearest of these class means as class: networks without training."""

    def __init__(self, means: torch.Tensor) -> None:
        super().__init__((1, 8, 8), len(means))
        self.means = torch.nn.Parameter(means.flatten(1).double())

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.double().flatten(1)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return -(torch.cdist(self.features(images), self.means) ** 2) / 400

    forward = logits


def patterns(classes: int) -> torch.Tensor:
    """The mean image of each class."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(classes, 1, 3, 3, generator=generator) * 130 + 60
    return torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")


def pictures(labels: torch.Tensor, means: torch.Tensor, seed: int) -> torch.Tensor:
    """Real images of these classes; the noise differs between classes."""
    generator = torch.Generator().manual_seed(seed)
    sigma = (10 + 10 * (labels % 3)).view(-1, 1, 1, 1)
    noise = torch.randn(len(labels), 1, 8, 8, generator=generator)
    return (means[labels] + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def made(
    shares: list[int], test_shares: list[int], n_train: int = 3000, n_test: int = 2000, seed: int = 0
) -> Evaluator:
    """A data set with these shares of its classes, and everything that scores it."""
    means = patterns(len(shares))
    train, test = (
        torch.tensor(interleave(apportion(n, parts))) for n, parts in ((n_train, shares), (n_test, test_shares))
    )
    train_images, network = pictures(train, means, 1), Pixels(means)
    known = reference.measure(
        (train_images, train), (pictures(test, means, 2 + 10_000 * seed), test), [network], "made", "", "", CPU
    )
    return Evaluator(known, [network], network, "", train_images, classifier.shares(train, len(shares)), ())


def scored(evaluator: Evaluator, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    return score(Samples(images.numpy(), labels.numpy(), (), {}, 1.0), len(images), evaluator, CPU)


def check_floor(records: list[dict[str, Any]]) -> None:
    """Assert that the mean of several draws of real images is the score of a perfect model."""

    def mean(name: str) -> float:
        return float(np.mean([record[name] for record in records]))

    assert 0.75 < mean("fid_indomain") / mean("fid_indomain_floor") < 1.33
    kids = [record["kid"] for record in records if record["kid"] is not None]
    assert len(kids) in (0, len(records)), "by the number of images of the rarest class"
    if kids:
        assert abs(np.mean(kids)) < 3 * np.std(kids, ddof=1) + 1e-4
    assert mean("coverage") == pytest.approx(COVERAGE, abs=0.02)
    assert mean("nearest_ratio") == pytest.approx(1, abs=0.03)
    assert min(record["memorization_p"] for record in records) > 1e-3


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 2)


@settings(max_examples=8)
@given(
    ratio=st.one_of(st.just(1.0), st.just(99.0), st.floats(1, 99)),
    rare=st.integers(1, 5),
    conditional=st.booleans(),
    equal_test=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_real_images_get_their_floor_at_any_shares(
    ratio: float, rare: int, conditional: bool, equal_test: bool, seed: int
) -> None:
    """From equal to 99 : 1, with a test set of the same shares or of equal ones."""
    shares = [round(10 * ratio)] * (6 - rare) + [10] * rare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", 2)
        evaluator = made(shares, [1] * 6 if equal_test else shares)
        records = []
        for draw in range(5):
            if conditional:
                labels = torch.tensor(interleave(apportion(400, shares)))
            else:  # an unconditional model draws the class from the training set's shares
                generator = torch.Generator().manual_seed(draw)
                labels = torch.multinomial(torch.tensor(shares) / sum(shares), 400, True, generator=generator)
            images = pictures(labels, patterns(6), 10 * seed + draw + 3)
            records.append(scored(evaluator, images, labels if conditional else NONE))
            assert records[-1]["class_tv"] < (0.01 if conditional else 0.1)
            assert records[-1]["class_accuracy"] == (pytest.approx(1, abs=0.01) if conditional else None)
    check_floor(records)


@pytest.mark.parametrize("ratio", [1, 9, 99])
def test_equally_many_of_each_class_compare_with_real_images_weighted_alike(few_resamples: None, ratio: int) -> None:
    """sampling.labels: uniform."""
    shares = [ratio, ratio, 1, 1, 1]
    evaluator = made(shares, shares, n_train=6000, n_test=6000)
    records = []
    for draw in range(5):
        labels = torch.arange(400) % 5
        records.append(scored(evaluator, pictures(labels, patterns(5), draw + 3), labels))
        assert records[-1]["class_tv"] < 0.01
    known = evaluator.reference
    tested, trained = (5 * int(counts.min()) for counts in (known.test_labels.bincount(), known.class_counts))
    for record in records:  # as many of each class as the rarest has, and one more of some
        assert 0 <= record["fid_indomain_floor_n"] - min(400, tested) < 5
        assert 0 <= record["manifold_n"] - min(400, trained) < 5
    if tested >= 400:
        check_floor(records)


def test_equal_classes_leave_every_number_as_it_was(few_resamples: None) -> None:
    """Without labels: all test images in their order, and the first 10,000 kept training images."""
    known = made([1] * 4, [1] * 4).reference
    same = compose(known, NONE)
    for name in reference.TENSORS:
        assert torch.equal(getattr(same, name), getattr(known, name)), name


def test_the_kept_images_begin_with_a_random_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ones complete each class to its share and to an equal one."""
    monkeypatch.setattr(reference, "MAX_KEPT", 100)
    labels = torch.tensor(interleave([900, 60, 40]))
    kept = reference._draw(labels, [900, 60, 40])
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(reference.DRAW_SEED))
    assert torch.equal(kept[:100], order[:100])
    assert len(kept.unique()) == len(kept)
    found = labels[kept].bincount().tolist()
    assert found[0] >= 90 and found[1:] == [34, 34]


def test_weighted_statistics_are_those_of_numpy() -> None:
    """By weights of the images, and by the moments of the classes."""
    known = made([5, 2, 1], [5, 2, 1], n_train=400, n_test=100)
    means, labels = patterns(3), torch.tensor(interleave(apportion(400, [5, 2, 1])))
    x = pictures(labels, means, 1).flatten(1).double()
    counts = torch.tensor([10, 20, 40])
    weights = (counts.double() / labels.bincount())[labels]
    expected = np.cov(x.numpy().T, aweights=weights.numpy())
    direct = statistics(x, weights)
    assert np.allclose(direct.covariance.numpy(), expected, rtol=1e-10)
    assert np.allclose(direct.mean.numpy(), np.average(x.numpy(), axis=0, weights=weights.numpy()), rtol=1e-12)
    composed = compose(known.reference, torch.repeat_interleave(torch.arange(3), counts))
    assert np.allclose(composed.covariance[0].numpy(), expected, rtol=1e-9, atol=1e-9)
    assert np.allclose(composed.mean[0].numpy(), direct.mean.numpy(), rtol=1e-12)
    plain = statistics(x, torch.full((400,), 3.0, dtype=torch.float64))
    assert np.allclose(plain.covariance.numpy(), statistics(x).covariance.numpy(), rtol=1e-10)


def test_the_kernel_distance_of_fixed_class_counts_is_unbiased() -> None:
    """Over all pairs it is not; where a class has one image, there is none."""
    means = patterns(6)
    labels = torch.arange(60) % 6
    scale = (means.square().mean()).sqrt()
    sets = [pictures(labels, means, seed).flatten(1).double() / scale for seed in range(200)]
    pairs = list(zip(sets[::2], sets[1::2], strict=True))
    by_class = torch.tensor([kernel_distance_by_class(x, labels, y, labels) for x, y in pairs])
    over_all = torch.tensor([kernel_distance(x, y) for x, y in pairs])
    error = by_class.std() / len(pairs) ** 0.5
    assert abs(by_class.mean()) < 3 * error
    assert over_all.mean() < -10 * error
    x, y = pairs[0]
    alone = torch.tensor([*[0] * 59, 1])
    assert kernel_distance_by_class(x, alone, y, alone) is None


@pytest.mark.parametrize(("classes", "n", "known"), [(50, 100, True), (50, 64, False), (100, 100, False)])
def test_many_classes_have_a_kid_of_zero_or_none(few_resamples: None, classes: int, n: int, known: bool) -> None:
    evaluator = made([1] * classes, [1] * classes)
    records = []
    for draw in range(6):
        labels = torch.arange(n) % classes
        records.append(scored(evaluator, pictures(labels, patterns(classes), draw + 3), labels))
    kids = [record["kid"] for record in records]
    if known:
        assert abs(np.mean(kids)) < 3 * np.std(kids, ddof=1) / len(kids) ** 0.5
    else:
        assert kids == [None] * 6
    assert all(record["coverage"] is not None for record in records)


@pytest.mark.parametrize(
    ("shares", "test_shares", "n_test"),
    [
        ([1] * 10, [1] * 10, 500),  # as many as samples
        ([1] * 10, [1] * 10, 900),
        ([1] * 10, [1] * 10, 5000),
        ([99] * 5 + [1] * 5, [99] * 5 + [1] * 5, 500),
        ([99] * 5 + [1] * 5, [1] * 10, 1000),
    ],
)
def test_a_random_number_of_each_class_raises_the_floor(
    monkeypatch: pytest.MonkeyPatch, shares: list[int], test_shares: list[int], n_test: int
) -> None:
    """However many test images there are; sets with exact shares would score lower."""
    n, means = 500, patterns(10)
    generator = torch.Generator().manual_seed(0)
    floors, real, exact = [], [], []
    for seed in range(4):
        known = made(shares, test_shares, n_test=n_test, seed=seed)
        composed = compose(known.reference, NONE)
        monkeypatch.setattr(reference, "COUNT_SEED", seed)
        floors.append(reference.floor(composed, n, random_counts=True).fid_indomain)
        for _ in range(12):
            drawn_labels = torch.multinomial(torch.tensor(shares).double(), n, True, generator=generator)
            fixed = torch.tensor(interleave(apportion(n, shares)))
            for labels, found in ((drawn_labels, real), (fixed, exact)):
                images = pictures(labels, means, 1000 + 2 * len(real) + (found is exact))
                found.append(reference.distance(composed, [known.extractors[0].features(images)]).fid_indomain)
    error = np.std(real) / len(real) ** 0.5
    assert np.mean(floors) == pytest.approx(np.mean(real), abs=3 * error + 0.02 * np.mean(real))
    assert np.mean(exact) < np.mean(real) - 3 * error


def test_many_test_images_keep_their_floor() -> None:
    """Four disjoint sets or more, as published."""
    composed = compose(made([1] * 10, [1] * 10, n_test=2000).reference, NONE)
    for n, same in ((500, True), (501, False)):
        floors = [reference.floor(composed, n, random_counts=random) for random in (False, True)]
        assert (floors[0] == floors[1]) is same
        assert floors[1] == reference.floor(composed, n, random_counts=True)


def test_a_class_without_training_images_is_refused(few_resamples: None) -> None:
    evaluator = made([3, 0, 1], [3, 0, 1])
    labels = torch.arange(90) % 3
    with pytest.raises(
        UserError, match=r"^sampling\.labels gives class 1, counted from 0, .*has 0 training images.*set it to training"
    ):
        scored(evaluator, pictures(labels, patterns(3), 1), labels)


def test_a_class_without_test_images_leaves_no_floor(few_resamples: None) -> None:
    evaluator = made([1, 1, 1], [1, 1, 0])
    labels = torch.arange(90) % 3
    record = scored(evaluator, pictures(labels, patterns(3), 3), labels)
    assert record["fid_indomain_floor"] is None
    assert record["fid_indomain"] > 0


# --- MNIST, cut 9 : 1 ----------------------------------------------------------------------------------------------


def drawn(labels: torch.Tensor, counts: list[int], generator: torch.Generator) -> torch.Tensor:
    """Return the indices of images of each class at random: `counts` of them."""
    places = [torch.nonzero(labels == label).flatten() for label in range(len(counts))]
    return torch.cat(
        [own[torch.randperm(len(own), generator=generator)[:n]] for own, n in zip(places, counts, strict=True)]
    )


@pytest.fixture(scope="module")
def unequal(mnist_images: ImageSet) -> Evaluator:
    """Five digits nine times as frequent as the others, under one shipped extractor."""

    def cut(images: torch.Tensor, labels: torch.Tensor, common: int) -> Labelled:
        chosen = drawn(labels, [common] * 5 + [common // 9] * 5, torch.Generator().manual_seed(1))
        return images[chosen], labels[chosen]

    networks = extractors.read(RESOURCES / "extractors" / "mnist.safetensors")[:1]
    train = cut(mnist_images.train_images, mnist_images.train_labels, 900)
    test = cut(mnist_images.test_images, mnist_images.test_labels, 810)
    return Evaluator(
        reference=reference.measure(train, test, networks, "mnist", "", "", CPU),
        extractors=networks,
        classifier=classifier.read(RESOURCES / "classifiers" / "mnist.safetensors"),
        classifier_sha256="",
        train_images=train[0],
        class_shares=classifier.shares(train[1], 10),
        inception=(),
    )


def test_unequal_digits_get_their_floor(unequal: Evaluator, mnist_images: ImageSet, few_resamples: None) -> None:
    """In the training set's shares, and equally many of each class."""
    y, generator = mnist_images.test_labels, torch.Generator().manual_seed(0)
    trained = unequal.reference.class_counts.tolist()
    for wanted in (apportion(640, trained), [64] * 10):
        records = []
        for _ in range(3):
            chosen = drawn(y, wanted, generator)
            records.append(scored(unequal, mnist_images.test_images[chosen], y[chosen]))
        fid, floor = (np.mean([record[name] for record in records]) for name in ("fid_indomain", "fid_indomain_floor"))
        assert 0.75 < fid / floor < 1.33
        assert abs(np.mean([record["kid"] for record in records])) < 0.003
        assert np.mean([record["coverage"] for record in records]) == pytest.approx(COVERAGE, abs=0.02)
        assert min(record["class_accuracy"] for record in records) > 0.98
        assert max(record["class_tv"] for record in records) < 0.01
    unweighted = replace(unequal, reference=replace(unequal.reference, class_counts=torch.tensor([540] * 10)))
    in_turn = scored(unweighted, mnist_images.test_images[chosen], y[chosen])
    assert in_turn["fid_indomain"] > 10 * floor, "what the images score if the reference keeps its own shares"
