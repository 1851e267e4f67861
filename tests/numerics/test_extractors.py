"""The extractors: their features do not depend on batches, and torch-fidelity computes the same distance with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import max_pool2d
from torch.utils.data import Dataset

from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.metrics.frechet import frechet_distance, statistics
from slimdiff.metrics.networks import extractors, fit
from slimdiff.metrics.networks.base import max_pool
from slimdiff.metrics.networks.extractors import FEATURES, Extractor, features
from slimdiff.metrics.networks.fit import ExtractorSettings, Trained, train_network

SHIPPED = Path(__file__).parents[2] / "workflow" / "resources" / "extractors"
NAMES = ("mnist", "fashion_mnist")


def images(n: int, shape: tuple[int, int, int] = (1, 12, 12), seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def untrained(shape: tuple[int, int, int] = (1, 12, 12), seed: int = 0) -> Extractor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Extractor(shape, 10).double().eval().requires_grad_(False)


def striped(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of two separable classes: noise with bright rows, noise with bright columns."""
    labels = torch.arange(n) % 2
    pictures = images(n, (1, 8, 8), seed) // 3
    pictures[labels == 0, :, ::3] += 150
    pictures[labels == 1, :, :, ::3] += 150
    return pictures, labels


def train(seed: int, settings: ExtractorSettings) -> Trained[Extractor]:
    how = {"seed": seed, "name": f"seed {seed}", "device": torch.device("cpu")}
    return train_network(Extractor, striped(200, 1), striped(100, 2), 2, settings, **how)  # type: ignore[arg-type]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> ExtractorSettings:
    monkeypatch.setattr(fit, "MIN_STEPS", 40)
    return ExtractorSettings(dataset="stripes", seeds=(0, 1, 2), epochs=1, batch_size=32, learning_rate=1e-3)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 5, 70), (1, 100, 64)])
def test_any_image_size_has_64_features_and_a_small_file(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    extractor = untrained(shape)
    found = features(extractor, images(3, shape))
    assert found.shape == (3, FEATURES)
    assert found.dtype == torch.float64
    assert torch.all(found >= 0)
    assert extractor.logits(images(3, shape)).shape == (3, 10)
    extractors.write(tmp_path / "one.safetensors", [extractor.float()], {"dataset": "x", "classes": ["c"] * 10})
    assert (tmp_path / "one.safetensors").stat().st_size < 600_000


@pytest.mark.parametrize("size", [(2, 2), (7, 9), (10, 5), (28, 28)])
@pytest.mark.parametrize("training", [False, True])
def test_max_pooling_is_torchs_with_its_gradient(size: tuple[int, int], training: bool) -> None:
    x = torch.randint(0, 3, (4, 3, *size), generator=torch.Generator().manual_seed(0)).double()  # with equal values
    x[0, 0, 0, 0] = torch.nan
    x.requires_grad_(training)
    with torch.set_grad_enabled(training):
        found, expected = max_pool(x), max_pool2d(x, 2)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    if training:
        gradients = [torch.autograd.grad(y.nan_to_num().square().sum(), x)[0] for y in (found, expected)]
        assert torch.equal(*gradients)


def test_smaller_images_are_refused() -> None:
    with pytest.raises(UserError, match="3×8 are too small"):
        Extractor((1, 3, 8), 10)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"images are 3×12×12 .* extractor takes 1×12×12"):
        features(untrained(), images(2, (3, 12, 12)))


def test_batch_size_and_order_do_not_matter() -> None:
    extractor, x = untrained((1, 28, 28)), images(101, (1, 28, 28))
    whole = features(extractor, x)
    order = torch.randperm(101, generator=torch.Generator().manual_seed(1))
    for batch_size in (1, 7, 100, 1000):
        shuffled = features(extractor, x[order], batch_size)
        assert torch.allclose(shuffled, whole[order], rtol=1e-12, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_does_not_matter() -> None:
    extractor, x = untrained((1, 28, 28)), images(101, (1, 28, 28))
    on_cpu = features(extractor, x)
    assert torch.allclose(features(extractor, x, device="cuda"), on_cpu, rtol=1e-10, atol=1e-12)


def test_training_learns_and_depends_on_the_seed_alone(short: ExtractorSettings) -> None:
    before = torch.random.get_rng_state()
    first, again, other = train(0, short), train(0, short), train(1, short)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.accuracy == again.accuracy > 0.9
    weights = [one.network.state_dict() for one in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["conv1.weight"], weights[2]["conv1.weight"])


def test_a_small_data_set_is_trained_for_more_epochs(
    short: ExtractorSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    train(0, short)
    assert "epoch 6/6" in capsys.readouterr().out  # 7 steps an epoch, 40 steps at least


def test_a_file_round_trip(tmp_path: Path, short: ExtractorSettings) -> None:
    trained = [train(seed, short).network for seed in (0, 1)]
    header = {"dataset": "stripes", "classes": ["rows", "columns"], "accuracies": [1.0, 1.0]}
    extractors.write(tmp_path / "a.safetensors", trained, header)
    extractors.write(tmp_path / "b.safetensors", trained, header)
    assert files.digest(tmp_path / "a.safetensors") == files.digest(tmp_path / "b.safetensors")
    found = extractors.read(tmp_path / "a.safetensors")
    x = striped(20, 3)[0]
    for one, original in zip(found, trained, strict=True):
        assert torch.equal(features(one, x), features(original.double(), x))
        assert not one.training
        assert not any(parameter.requires_grad for parameter in one.parameters())
    assert extractors.read_header(tmp_path / "a.safetensors")["accuracies"] == [1.0, 1.0]


def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "extractors.safetensors"
    extractors.write(path, [untrained()], {"dataset": "x", "classes": ["c"] * 10})
    monkeypatch.setattr(extractors, "ARCHITECTURE", "another")
    with pytest.raises(UserError, match=r"extractors\.safetensors holds extractors of another architecture"):
        extractors.read(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"extractors\.safetensors is damaged"):
        extractors.read(path)


class Bare(Dataset[torch.Tensor]):
    """Images as torch-fidelity's data set."""

    def __init__(self, pictures: torch.Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.pictures[index]


def torch_fidelity_fid(extractor: Extractor, a: torch.Tensor, b: torch.Tensor, name: str, cache: Path) -> float:
    """Return torch-fidelity's distance with our extractor, from its own batches, statistics and formula."""
    fidelity: Any = pytest.importorskip("torch_fidelity")

    class Registered(fidelity.FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.extractor = extractor

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("64",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "64"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> None:
            return None

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.extractor(x),)

    fidelity.register_feature_extractor(name, Registered)
    found = fidelity.calculate_metrics(
        input1=Bare(a),
        input2=Bare(b),
        cuda=False,
        fid=True,
        feature_extractor=name,
        batch_size=37,
        save_cpu_ram=True,  # no worker processes
        cache=False,
        cache_root=str(cache),
        verbose=False,
    )
    return float(found["frechet_inception_distance"])


@pytest.mark.parametrize("single", [False, True])
def test_torch_fidelity_agrees(tmp_path: Path, single: bool) -> None:
    """In double precision, and in torch-fidelity's own single precision."""
    ours = untrained()
    a, b = images(300, seed=1), (images(200, seed=2) // 2) + 60
    distance = frechet_distance(statistics(features(ours, a)), statistics(features(ours, b)))
    theirs = untrained().float() if single else ours
    found = torch_fidelity_fid(theirs, a, b, f"made-up-{single}", tmp_path)
    assert distance == pytest.approx(found, rel=1e-5)


@pytest.fixture(params=NAMES)
def shipped(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[Extractor]]]:
    yield request.param, extractors.read(SHIPPED / f"{request.param}.safetensors")


def test_shipped_extractors_match_their_hashes(shipped: tuple[str, list[Extractor]]) -> None:
    name, found = shipped
    lines = [line.split() for line in (SHIPPED / "SHA256SUMS").read_text().splitlines()]
    sums = {file: digest for digest, file in lines}
    assert sorted(sums) == sorted(f"{name}.safetensors" for name in NAMES)
    assert files.digest(SHIPPED / f"{name}.safetensors") == sums[f"{name}.safetensors"]
    header = extractors.read_header(SHIPPED / f"{name}.safetensors")
    assert (header["dataset"], header["seeds"], header["image_shape"]) == (name, [0, 1, 2], [1, 28, 28])
    assert len(found) == len(header["accuracies"]) == 3
    assert min(header["accuracies"]) > {"mnist": 0.985, "fashion_mnist": 0.88}[name]


def test_shipped_extractors_have_their_stated_accuracy(mnist_images: ImageSet) -> None:
    header = extractors.read_header(SHIPPED / "mnist.safetensors")
    extractor = extractors.read(SHIPPED / "mnist.safetensors")[0]
    accuracy = fit.accuracy(extractor, mnist_images.test_images, mnist_images.test_labels, torch.device("cpu"))
    assert accuracy == pytest.approx(header["accuracies"][0], abs=2e-4)


def test_torch_fidelity_agrees_on_digits(mnist_images: ImageSet, tmp_path: Path) -> None:
    extractor = extractors.read(SHIPPED / "mnist.safetensors")[1]
    a, b = mnist_images.train_images[:1000], mnist_images.test_images[:700]
    distance = frechet_distance(statistics(features(extractor, a)), statistics(features(extractor, b)))
    assert distance == pytest.approx(torch_fidelity_fid(extractor, a, b, "digits", tmp_path), rel=1e-5)


def test_worse_images_have_larger_distances(mnist_images: ImageSet) -> None:
    """Real digits are closest; the distance grows with noise and with missing classes."""
    extractor = extractors.read(SHIPPED / "mnist.safetensors")[0]
    real = statistics(features(extractor, mnist_images.train_images[:3000]))
    x, labels = mnist_images.test_images[:2000], mnist_images.test_labels[:2000]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def distance(pictures: torch.Tensor) -> float:
        return frechet_distance(real, statistics(features(extractor, pictures)))

    noisy = [distance((x + sigma * noise).clamp(0, 255).to(torch.uint8)) for sigma in (0, 16, 32, 64)]
    assert noisy == sorted(noisy)
    assert noisy[-1] > 10 * noisy[0]
    fewer = [distance(x[labels >= lost]) for lost in (0, 1, 3, 5)]
    assert fewer == sorted(fewer)
    assert fewer[1] > 3 * fewer[0]
