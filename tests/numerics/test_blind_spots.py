"""Sensitivity and blind spots of each metric, on real digits with known damage.

The small version of docs/results/blind-spots, on scikit-learn's 8×8 digits.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from slimdiff.data import sources
from slimdiff.data.image_set import ImageSet
from slimdiff.data.sources import DataSettings
from slimdiff.io.samples import Samples
from slimdiff.metrics import reference
from slimdiff.metrics import score as score_module
from slimdiff.metrics.evaluator import Evaluator
from slimdiff.metrics.networks import classifier, fit
from slimdiff.metrics.networks.classifier import Classifier
from slimdiff.metrics.networks.extractors import Extractor
from slimdiff.metrics.networks.fit import ClassifierSettings, ExtractorSettings, train_network
from slimdiff.metrics.score import score

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
STEPS = 200  # of each training; the classifier then recognizes 97 % of the test images
# Every number of a record that depends on the samples.
NUMBERS = [
    name for name in score_module.MEASURES if name not in ("fid_indomain_extractors", "fid_inception", "fid_paper")
]


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return sources.load(DataSettings(name="digits", source="digits"), Path("none"))


@pytest.fixture(scope="module")
def evaluator(digits: ImageSet) -> Iterator[Evaluator]:
    train, test = (digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "MIN_STEPS", STEPS)
        shared: dict[str, Any] = {"dataset": "digits", "epochs": 1, "batch_size": 64, "learning_rate": 2e-3}
        how: dict[str, Any] = {"name": "", "device": CPU}
        settings = ExtractorSettings(seeds=(0, 1, 2), **shared)
        networks = [
            train_network(Extractor, train, test, 10, settings, seed=seed, **how).network.double()
            for seed in settings.seeds
        ]
        network = train_network(
            Classifier, train, test, 10, ClassifierSettings(seed=3, **shared), seed=3, **how
        ).network
    yield Evaluator(
        reference=reference.measure(train, test, networks, "digits", "", "", CPU),
        extractors=networks,
        classifier=network.double(),
        classifier_sha256="",
        train_images=digits.train_images,
        class_shares=classifier.shares(digits.train_labels, 10),
        inception=(),
    )


def scored(evaluator: Evaluator, images: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
    requested = torch.zeros(0, dtype=torch.int64) if labels is None else labels
    return score(Samples(images.numpy(), requested.numpy(), (), {}, 1.0), len(images), evaluator, CPU)


@pytest.fixture(scope="module")
def real(evaluator: Evaluator, digits: ImageSet) -> dict[str, Any]:
    """Return the score of test images: that of a perfect model."""
    return scored(evaluator, digits.test_images, digits.test_labels)


def noisy(images: torch.Tensor, sigma: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + sigma * noise).clamp(0, 255).to(torch.uint8)


def blurred(images: torch.Tensor) -> torch.Tensor:
    kernel = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 16
    return F.conv2d(images.float(), kernel[None, None], padding=1).round().to(torch.uint8)


def drawn(images: torch.Tensor, n: int) -> torch.Tensor:
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n]]


def test_real_images_score_as_documented(real: dict[str, Any]) -> None:
    assert real["fid_indomain"] == pytest.approx(real["fid_indomain_floor"], rel=1e-5)
    assert real["fid_indomain_min"] <= real["fid_indomain"] <= real["fid_indomain_max"]
    assert real["fid_indomain_pct"] < 0.5
    assert abs(real["kid"]) < 0.01
    assert min(real["precision"], real["recall"], real["density"], real["coverage"]) > 0.8
    assert real["class_accuracy"] > 0.95
    assert real["class_tv"] < 0.02
    assert real["low_confidence"] < 0.1
    assert real["memorization_p"] == pytest.approx(0.5, abs=0.001)
    assert real["nearest_ratio"] == 1
    assert real["few_samples"], "364 images for 64 features"


def test_real_images_of_unequal_classes_get_their_floor(evaluator: Evaluator, digits: ImageSet) -> None:
    """Nine times as many of five classes as of the others, in the training set, among test images and samples."""
    records = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)

        def shuffled(labels: torch.Tensor, generator: torch.Generator = generator) -> list[torch.Tensor]:
            places = [torch.nonzero(labels == label).flatten() for label in range(10)]
            return [own[torch.randperm(len(own), generator=generator)] for own in places]

        train = torch.cat([own[: 135 if c < 5 else 15] for c, own in enumerate(shuffled(digits.train_labels))])
        places = shuffled(digits.test_labels)
        test, samples = (
            torch.cat([own[half * (18 if c < 5 else 2) :][: 18 if c < 5 else 2] for c, own in enumerate(places)])
            for half in (0, 1)
        )
        real = (digits.train_images[train], digits.train_labels[train])
        known = reference.measure(
            real, (digits.test_images[test], digits.test_labels[test]), evaluator.extractors, "digits", "", "", CPU
        )
        shares = classifier.shares(real[1], 10)
        cut = replace(evaluator, reference=known, train_images=real[0], class_shares=shares)
        records.append(scored(cut, digits.test_images[samples], digits.test_labels[samples]))

    def mean(name: str) -> float:
        return sum(record[name] for record in records) / len(records)

    assert mean("fid_indomain") == pytest.approx(mean("fid_indomain_floor"), rel=0.2)
    assert abs(mean("kid")) < 0.02
    assert mean("coverage") == pytest.approx(0.97, abs=0.03)
    assert mean("class_accuracy") > 0.95
    assert mean("class_tv") < 0.03
    assert {record["fid_indomain_floor_n"] for record in records} == {100}


def test_more_noise_scores_worse_and_a_little_is_not_detected(
    evaluator: Evaluator, digits: ImageSet, real: dict[str, Any]
) -> None:
    faint, *levels = (scored(evaluator, noisy(digits.test_images, sigma)) for sigma in (4, 16, 32, 64))
    for name, sign in (("fid_indomain", 1), ("kid", 1), ("precision", -1), ("density", -1), ("low_confidence", 1)):
        values = [sign * one[name] for one in levels]
        assert values == sorted(values), name
    assert levels[-1]["fid_indomain"] > 10 * real["fid_indomain"]
    assert faint["fid_indomain"] < 1.5 * real["fid_indomain"], "the blind spot: noise of 4 gray levels"
    assert faint["precision"] > real["precision"] - 0.03


def test_blur_scores_much_worse(evaluator: Evaluator, digits: ImageSet, real: dict[str, Any]) -> None:
    found = scored(evaluator, blurred(digits.test_images))
    assert found["fid_indomain"] > 50 * real["fid_indomain"]
    assert found["kid"] > 0.5
    assert max(found["precision"], found["recall"], found["coverage"]) < 0.5 * real["precision"]


def test_missing_classes_lower_recall_coverage_and_class_shares_but_not_precision(
    evaluator: Evaluator, digits: ImageSet, real: dict[str, Any]
) -> None:
    n = len(digits.test_images)
    few, many = (
        scored(evaluator, digits.test_images[digits.test_labels >= lost].repeat(2, 1, 1, 1)[:n]) for lost in (2, 5)
    )
    assert real["fid_indomain"] * 3 < few["fid_indomain"] < many["fid_indomain"]
    assert real["coverage"] - 0.1 > few["coverage"] > many["coverage"]
    assert real["recall"] - 0.1 > few["recall"] > many["recall"]
    assert few["class_tv"] == pytest.approx(0.2, abs=0.03)
    assert many["class_tv"] == pytest.approx(0.5, abs=0.03)
    assert many["precision"] > real["precision"] - 0.05, "the blind spot: the remaining samples are good"
    assert many["density"] > real["density"] - 0.1


def test_only_class_accuracy_detects_the_wrong_class(
    evaluator: Evaluator, digits: ImageSet, real: dict[str, Any]
) -> None:
    order = digits.test_labels.argsort()
    wrong = torch.empty_like(order)
    wrong[order] = digits.test_labels[order].roll(int(digits.test_labels.bincount().max()))  # as many of each
    found = scored(evaluator, digits.test_images, wrong)
    assert found["class_accuracy"] < 0.05
    assert found["kid"] == pytest.approx(real["kid"], abs=0.03)  # as the deviation, it takes pairs or draws by class
    by_class = ("class_accuracy", "class_tv", "kid", "fid_indomain_sampling_sd")
    same = [name for name in NUMBERS if name not in by_class]
    assert {name: found[name] for name in same} == {name: real[name] for name in same}


def test_only_memorization_detects_copies_of_training_images(
    evaluator: Evaluator, digits: ImageSet, real: dict[str, Any]
) -> None:
    """The blind spot of all feature metrics: a memorized training set scores better than unseen real images."""
    copies = scored(evaluator, digits.train_images)
    assert copies["fid_indomain"] < 0.01 * real["fid_indomain"]
    assert (copies["precision"], copies["recall"]) >= (real["precision"], real["recall"])
    assert copies["coverage"] > real["coverage"]
    assert copies["low_confidence"] < real["low_confidence"]
    assert copies["nearest_ratio"] == 0
    assert copies["memorization_p"] < 1e-12
    with_noise = scored(evaluator, noisy(drawn(digits.train_images, 500), 4))
    assert with_noise["nearest_ratio"] < 0.2
    assert with_noise["memorization_p"] < 1e-12


def test_recall_and_coverage_detect_a_few_repeated_images(
    evaluator: Evaluator, digits: ImageSet, real: dict[str, Any]
) -> None:
    found = scored(evaluator, drawn(digits.train_images, 90).repeat(4, 1, 1, 1))
    assert found["recall"] < 0.2
    assert found["coverage"] < real["coverage"] - 0.2
    assert found["precision"] > real["precision"] - 0.05
    assert found["nearest_ratio"] == 0


def test_confidence_detects_double_digits(evaluator: Evaluator, digits: ImageSet, real: dict[str, Any]) -> None:
    """In a tenth of the images: confidence drops, precision hardly changes."""
    images = digits.test_images.clone()
    images[::10] = torch.maximum(images[::10], images.roll(7, 0)[::10])
    found = scored(evaluator, images)
    assert found["low_confidence"] > real["low_confidence"] + 0.04
    assert abs(found["precision"] - real["precision"]) < 0.08


@pytest.mark.parametrize("kind", ["noisy", "copies"])
def test_order_and_batches_do_not_change_any_score(
    evaluator: Evaluator, digits: ImageSet, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies lie exactly on the edge of neighbourhoods, where rounding could decide."""
    images, labels = digits.test_images[:300], digits.test_labels[:300]
    if kind == "copies":
        images = torch.cat([digits.train_images[:40].repeat(5, 1, 1, 1), digits.train_images[40:140]])
    else:
        images = noisy(images, 16)
    first = scored(evaluator, images, labels)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert scored(evaluator, images[order], labels[order]) == first

    monkeypatch.setattr(score_module, "BATCH_SIZE", 7)
    second = scored(evaluator, images[order], labels[order])
    assert second.pop("score_batch_size") == 7
    assert first.pop("score_batch_size") != 7
    assert second == first
