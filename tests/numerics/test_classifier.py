"""The classifier: its metrics equal a count by hand, and it has its stated accuracy."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.data import image_set
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.metrics.networks import classifier, fit
from slimdiff.metrics.networks.classifier import Classifier, classify_samples, probabilities, shares
from slimdiff.metrics.networks.extractors import Extractor
from slimdiff.metrics.networks.fit import ClassifierSettings, Trained, train_network
from slimdiff.stages import classifier as stage

SHIPPED = Path(__file__).parents[2] / "workflow" / "resources" / "classifiers"
NAMES = ("mnist", "fashion_mnist")
CPU = torch.device("cpu")
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64)
NO_LABELS = torch.zeros(0, dtype=torch.int64)


def images(n: int, shape: tuple[int, int, int] = (1, 12, 12), seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def untrained(shape: tuple[int, int, int] = (1, 12, 12), classes: int = 10, seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(shape, classes).double().eval().requires_grad_(False)


def striped(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of two separable classes: noise with bright rows, noise with bright columns."""
    labels = torch.arange(n) % 2
    pictures = images(n, (1, 8, 8), seed) // 3
    pictures[labels == 0, :, ::3] += 150
    pictures[labels == 1, :, :, ::3] += 150
    return pictures, labels


class Conditional(Classifier):
    """A network that reads its output from the image: the first pixel is the class, the second its percentage."""

    def __init__(self, n_classes: int = 4) -> None:
        super().__init__((1, 4, 4), n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shown, sure = images[:, 0, 0, 0].long(), images[:, 0, 0, 1].double() / 100
        rest = (1 - sure) / (self.n_classes - 1)
        return torch.where(torch.arange(self.n_classes) == shown[:, None], sure[:, None], rest[:, None]).log()


def telling(*answers: tuple[int, int]) -> torch.Tensor:
    """Return images for `Conditional`, from (class, percentage)."""
    pictures = torch.zeros(len(answers), 1, 4, 4, dtype=torch.uint8)
    for picture, (shown, sure) in zip(pictures, answers, strict=True):
        picture[0, 0, 0], picture[0, 0, 1] = shown, sure
    return pictures


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 5, 70), (1, 100, 64)])
def test_any_image_size_and_number_of_classes_makes_a_small_file(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    network = untrained(shape, classes=7)
    found = probabilities(network, images(3, shape))
    assert (found.shape, found.dtype) == ((3, 7), torch.float64)
    assert torch.allclose(found.sum(dim=1), torch.ones(3, dtype=torch.float64))
    classifier.write(tmp_path / "one.safetensors", network.float(), {"dataset": "x", "classes": ["c"] * 7})
    assert (tmp_path / "one.safetensors").stat().st_size < 500_000


def test_the_classifier_differs_from_the_extractors() -> None:
    def weights(network: torch.nn.Module) -> set[tuple[int, ...]]:
        return {tuple(tensor.shape) for tensor in network.state_dict().values() if tensor.ndim == 4}

    assert not weights(Classifier((1, 28, 28), 10)) & weights(Extractor((1, 28, 28), 10))


def test_the_cost_of_one_image() -> None:
    network = untrained((1, 28, 28))
    with FlopCounterMode(display=False) as counter:
        network(images(1, (1, 28, 28)))
    assert counter.get_total_flops() == 2 * 5_586_048  # 196·25·32 + 196·288·64 + 49·576·64 + 1024·10


def test_smaller_images_are_refused() -> None:
    with pytest.raises(UserError, match="3×8 are too small"):
        Classifier((1, 3, 8), 10)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"images are 3×12×12 .* the classifier takes 1×12×12"):
        classify_samples(untrained(), images(2, (3, 12, 12)), NO_LABELS, torch.full((10,), 0.1, dtype=torch.float64))


def test_metrics_equal_a_count_by_hand() -> None:
    shown = telling((0, 99), (0, 80), (1, 95), (2, 89), (2, 91))
    found = classify_samples(Conditional(), shown, torch.tensor([0, 0, 0, 2, 3]), UNIFORM)
    # Requested 3, 0, 1, 1; recognized 2, 1, 2, 0: the differences are 1, 1, 1, 1 of 5, and half their sum is 2 of 5.
    assert found == {"class_accuracy": 3 / 5, "class_tv": pytest.approx(2 / 5), "low_confidence": 2 / 5}


def test_without_labels_class_shares_are_compared_with_the_training_set() -> None:
    shown = telling((0, 99), (0, 99), (1, 99), (3, 99))
    found = classify_samples(Conditional(), shown, NO_LABELS, torch.tensor([0.25, 0.25, 0.5, 0.0], dtype=torch.float64))
    assert found == {"class_accuracy": None, "class_tv": pytest.approx(0.5), "low_confidence": 0.0}


@pytest.mark.parametrize(
    ("answers", "distance"),
    [(((0, 99), (1, 99), (2, 99), (3, 99)), 0.0), (((1, 99),) * 4, 0.75), (((0, 99), (0, 99), (1, 99), (1, 99)), 0.5)],
)
def test_missing_classes_change_the_class_shares(answers: tuple[tuple[int, int], ...], distance: float) -> None:
    assert classify_samples(Conditional(), telling(*answers), NO_LABELS, UNIFORM)["class_tv"] == pytest.approx(distance)
    # Exchanged classes do not: accuracy measures those.
    requested = torch.tensor([shown for shown, _ in answers]).roll(1)
    assert classify_samples(Conditional(), telling(*answers), requested, UNIFORM)["class_tv"] == 0.0


def test_class_shares_count_missing_classes() -> None:
    assert shares(torch.tensor([0, 0, 2]), 4).tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0])


@pytest.mark.parametrize(
    ("n", "labels", "class_shares", "message"),
    [
        (0, [], UNIFORM, "there is no image .*sampling.n_samples"),
        (3, [0, 1], UNIFORM, "there are 2 labels for 3 images; allowed: 3 or 0"),
        (2, [0, 1], UNIFORM[:3], "the data set has 3 classes, its classifier 4"),
        (2, [0, 4], UNIFORM, r"labels 0 to 4; the classifier knows 0 to 3: set models\.<name>\.network"),
        (2, [-1, 3], UNIFORM, "labels -1 to 3"),
    ],
)
def test_invalid_inputs_are_refused(n: int, labels: list[int], class_shares: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        classify_samples(Conditional(), telling(*[(0, 99)] * n), torch.tensor(labels, dtype=torch.int64), class_shares)


def test_batch_size_and_order_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = untrained((1, 28, 28)), images(101, (1, 28, 28))
    labels = torch.arange(101) % 10
    whole = probabilities(network, x)
    order = torch.randperm(101, generator=torch.Generator().manual_seed(1))
    for batch_size in (1, 7, 100, 1000):
        assert torch.allclose(probabilities(network, x[order], batch_size), whole[order], rtol=1e-12, atol=1e-14)
    tenth = torch.full((10,), 0.1, dtype=torch.float64)
    assert classify_samples(network, x[order], labels[order], tenth) == classify_samples(network, x, labels, tenth)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_does_not_matter() -> None:
    network, x = untrained((1, 28, 28)), images(101, (1, 28, 28))
    on_cpu = probabilities(network, x)
    assert torch.allclose(probabilities(network, x, device="cuda"), on_cpu, rtol=1e-10, atol=1e-12)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> ClassifierSettings:
    monkeypatch.setattr(fit, "MIN_STEPS", 40)
    return ClassifierSettings(dataset="stripes", seed=0, epochs=1, batch_size=32, learning_rate=1e-3)


def train(settings: ClassifierSettings) -> Trained[Classifier]:
    train, test, seed = striped(200, 1), striped(100, 2), settings.seed
    return train_network(Classifier, train, test, 2, settings, seed=seed, name="classifier", device=CPU)


def test_training_learns_and_depends_on_the_seed_alone(short: ClassifierSettings) -> None:
    other_seed = ClassifierSettings(dataset="stripes", seed=1, epochs=1, batch_size=32, learning_rate=1e-3)
    before = torch.random.get_rng_state()
    first, again, other = train(short), train(short), train(other_seed)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.accuracy == again.accuracy > 0.9
    weights = [one.network.state_dict() for one in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["conv1.weight"], weights[2]["conv1.weight"])


def test_a_small_data_set_is_trained_for_more_epochs(
    short: ClassifierSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    train(short)
    assert "epoch 6/6" in capsys.readouterr().out  # 7 steps an epoch, 40 steps at least


def test_a_file_round_trip(tmp_path: Path, short: ClassifierSettings) -> None:
    trained = train(short).network
    header = {"dataset": "stripes", "classes": ["rows", "columns"], "accuracy": 1.0}
    classifier.write(tmp_path / "a.safetensors", trained, header)
    classifier.write(tmp_path / "b.safetensors", trained, header)
    assert files.digest(tmp_path / "a.safetensors") == files.digest(tmp_path / "b.safetensors")
    found, x = classifier.read(tmp_path / "a.safetensors"), striped(20, 3)[0]
    assert torch.equal(probabilities(found, x), probabilities(trained.double(), x))
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert classifier.read_header(tmp_path / "a.safetensors")["accuracy"] == 1.0


def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "classifier.safetensors"
    classifier.write(path, untrained(), {"dataset": "x", "classes": ["c"] * 10})
    monkeypatch.setattr(classifier, "ARCHITECTURE", "another")
    with pytest.raises(UserError, match=r"another architecture .*datasets\.x\.classifier"):
        classifier.read(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"classifier\.safetensors is damaged"):
        classifier.read(path)
    with pytest.raises(UserError, match="holds 'extractors', expected 'classifier'"):
        classifier.read(SHIPPED.parent / "extractors" / "mnist.safetensors")


def test_the_stage_trains_the_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "MIN_STEPS", 3)
    train, test = striped(40, 1), striped(20, 2)
    image_set.write(tmp_path / "images.safetensors", ImageSet(*train, *test, "stripes", ("rows", "columns"), "made up"))
    settings = {"dataset": "stripes", "seed": 5, "epochs": 1, "batch_size": 30, "learning_rate": 1e-3}
    paths = ["--images", str(tmp_path / "images.safetensors"), "--out", str(tmp_path / "new.safetensors")]
    stage.main(["--settings", json.dumps(settings), *paths])
    assert "epoch 2/2" in capsys.readouterr().out
    header = classifier.read_header(tmp_path / "new.safetensors")
    assert {key: header[key] for key in ("dataset", "classes", "seed")} == {
        "dataset": "stripes",
        "classes": ["rows", "columns"],
        "seed": 5,
    }
    found = probabilities(classifier.read(tmp_path / "new.safetensors"), test[0]).argmax(1)
    assert (found == test[1]).double().mean().item() == header["accuracy"]
    with pytest.raises(UserError, match="unknown key 'seeds'; allowed: batch_size"):
        stage.main(["--settings", json.dumps(settings | {"seeds": [1]}), *paths])


@pytest.mark.parametrize("name", NAMES)
def test_shipped_classifiers_match_their_hashes(name: str) -> None:
    sums = dict(reversed(line.split()) for line in (SHIPPED / "SHA256SUMS").read_text().splitlines())
    assert sorted(sums) == sorted(f"{name}.safetensors" for name in NAMES)
    assert files.digest(SHIPPED / f"{name}.safetensors") == sums[f"{name}.safetensors"]
    header = classifier.read_header(SHIPPED / f"{name}.safetensors")
    assert (header["dataset"], header["image_shape"], len(header["classes"])) == (name, [1, 28, 28], 10)
    assert header["accuracy"] > {"mnist": 0.992, "fashion_mnist": 0.905}[name]
    assert classifier.read(SHIPPED / f"{name}.safetensors").n_classes == 10


@pytest.fixture(scope="module")
def shipped() -> Classifier:
    return classifier.read(SHIPPED / "mnist.safetensors")


@pytest.fixture(scope="module")
def mnist_shares(mnist_images: ImageSet) -> torch.Tensor:
    return shares(mnist_images.train_labels, 10)


@pytest.mark.slow
def test_the_shipped_classifier_has_its_stated_accuracy(
    shipped: Classifier, mnist_images: ImageSet, mnist_shares: torch.Tensor
) -> None:
    found = classify_samples(shipped, mnist_images.test_images, mnist_images.test_labels, mnist_shares)
    header = classifier.read_header(SHIPPED / "mnist.safetensors")
    assert found["class_accuracy"] == pytest.approx(header["accuracy"], abs=2e-4)
    assert found["class_tv"] is not None
    assert found["class_tv"] < 0.01
    assert found["low_confidence"] is not None
    assert found["low_confidence"] < 0.03


def test_the_classifier_detects_damage_that_the_distance_misses(
    shipped: Classifier, mnist_images: ImageSet, mnist_shares: torch.Tensor
) -> None:
    """Overlaid digits lower the confidence, a missing class the class shares, wrong labels the accuracy."""
    x, labels = mnist_images.test_images[:2000], mnist_images.test_labels[:2000]

    def seen(pictures: torch.Tensor, requested: torch.Tensor = NO_LABELS) -> dict[str, float]:
        found = classify_samples(shipped, pictures, requested, mnist_shares)
        return {name: value for name, value in found.items() if value is not None}

    real = seen(x, labels)
    doubled = [seen(torch.cat([torch.maximum(x[:n], x[n : 2 * n]), x[n:]])) for n in (200, 600)]
    unsure = [found["low_confidence"] for found in (real, *doubled)]
    assert unsure == sorted(unsure)
    assert unsure[1] > 2 * unsure[0]
    lost = labels != 4
    assert seen(x[lost])["class_tv"] == pytest.approx(mnist_shares[4].item(), abs=0.03)
    assert real["class_tv"] < 0.04
    wrong = torch.where(torch.arange(2000) % 4 == 0, (labels + 1) % 10, labels)
    assert seen(x, wrong)["class_accuracy"] == pytest.approx(0.75 * real["class_accuracy"], abs=0.01)
