"""The two Inception distances against independent code, with equal random weights: the published ones are 200 MB."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from torch import nn
from torch.utils.data import Dataset

from slimdiff.analysis.columns import COLUMNS as MATRIX_COLUMNS
from slimdiff.catalog import limits
from slimdiff.data import image_set
from slimdiff.data.download import Unavailable
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.metrics.frechet import Statistics, frechet_distance, statistics
from slimdiff.metrics.networks import inception, inception_weights
from slimdiff.metrics.networks.inception import build, features, measure, score_inception
from slimdiff.stages import inception as inception_stage
from slimdiff.stages import inception_weights as weights_stage

ROOT = Path(__file__).parents[2]
KINDS = ("standard", "paper")
NO_LABELS = torch.zeros(0, dtype=torch.int64)
Tensors = dict[str, torch.Tensor]


def images(n: int, shape: tuple[int, int, int] = (1, 28, 28), seed: int = 0) -> torch.Tensor:
    """Return smooth random blobs, whose features differ, unlike those of noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, shape[0], 5, 5, generator=generator)
    fine = nn.functional.interpolate(coarse, size=shape[1:], mode="bicubic")
    return (fine * 255).clamp(0, 255).to(torch.uint8)


def randomized(network: nn.Module) -> Tensors:
    """Return weights that pass a signal through all layers, so that features are of the order of 1."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # missing in older files
        if name.endswith("conv.weight"):
            spread = (2 / tensor[0].numel()) ** 0.5
            tensors[name] = spread * torch.randn(tensor.shape, generator=generator)
        elif name.endswith(("bn.bias", "bn.running_mean")):
            tensors[name] = 0.1 * torch.randn(tensor.shape, generator=generator)
        else:
            tensors[name] = tensor.clone()
    return tensors


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small batches: they are always padded, and an image takes a tenth of a second."""
    monkeypatch.setattr(inception, "BATCH_SIZE", 2)


@pytest.fixture(scope="module")
def paper_weights() -> Tensors:
    """Weights like the published file, including its unused parts."""
    return randomized(torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False))


@pytest.fixture(scope="module")
def standard_weights() -> Tensors:
    fidelity: Any = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        # It would download its weights.
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        return randomized(fidelity.FeatureExtractorInceptionV3("made-up", ["2048"]))


@pytest.fixture(scope="module")
def networks(standard_weights: Tensors, paper_weights: Tensors) -> dict[str, nn.Module]:
    return {"standard": build("standard", standard_weights), "paper": build("paper", paper_weights)}


# --- the paper's distance -----------------------------------------------------------------------------------------


def resized_as_by_cv2(image: np.ndarray, side: int) -> np.ndarray:
    """Bilinear interpolation like cv2.resize: pixel centres at halves, border pixels repeated outwards."""

    def weights(size: int) -> np.ndarray:
        matrix = np.zeros((side, size))
        for row in range(side):
            centre = (row + 0.5) * size / side - 0.5
            lower = int(np.floor(centre))
            matrix[row, np.clip(lower, 0, size - 1)] += 1 - (centre - lower)
            matrix[row, np.clip(lower + 1, 0, size - 1)] += centre - lower
        return matrix

    return weights(image.shape[-2]) @ image @ weights(image.shape[-1]).T


def paper_pipeline(weights: Tensors, pictures: torch.Tensor) -> torch.Tensor:
    """hukkelas/pytorch-frechet-inception-distance, written from its description, in double precision.

    Pixels / 255, bilinear to 299, · 2 - 1; then torchvision's network for pretrained weights, which treats its input as
    normalized with ImageNet's means and standard deviations; Mixed_7c, mean over the pixels.
    """
    network = torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False).double().eval()
    network.load_state_dict(weights)
    network.transform_input = False
    kept: list[torch.Tensor] = []
    network.Mixed_7c.register_forward_hook(lambda _module, _given, found: kept.append(found))
    x = np.repeat(pictures.numpy(), 3 // pictures.shape[1], axis=1) / 255.0
    x = resized_as_by_cv2(x, 299) * 2 - 1
    shifts = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
    x = np.stack([x[:, index] * (std / 0.5) + (mean - 0.5) / 0.5 for index, (mean, std) in enumerate(shifts)], axis=1)
    with torch.inference_mode():
        network(torch.from_numpy(x))
    return kept[0].mean(dim=(2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 24)])
def test_the_papers_features_agree_with_the_description_of_its_code(
    networks: dict[str, nn.Module], paper_weights: Tensors, shape: tuple[int, int, int]
) -> None:
    pictures = images(3, shape)
    expected = paper_pipeline(paper_weights, pictures)
    found = features(networks["paper"], pictures)
    assert (found.shape, found.dtype) == ((3, 2048), torch.float32)
    assert (found - expected).norm() < 2e-5 * expected.norm()
    assert (expected[0] - expected[1]).norm() > 0.01 * expected.norm(), (
        "otherwise the test is trivial: the images must differ"
    )


def test_the_paper_normalizes_twice(networks: dict[str, nn.Module]) -> None:
    """Values measured with the original code: black and white are not -1 and 1."""
    seen: list[torch.Tensor] = []
    first: Any = networks["paper"].inception.Conv2d_1a_3x3  # type: ignore[union-attr]
    hook = first.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    for value in (0, 255):
        with torch.inference_mode():
            networks["paper"](torch.full((1, 3, 28, 28), value, dtype=torch.uint8))
    hook.remove()
    assert [seen[0][0, channel].mean().item() for channel in range(3)] == pytest.approx([-0.49, -0.54, -0.64], abs=5e-3)
    assert [seen[1][0, channel].mean().item() for channel in range(3)] == pytest.approx([0.43, 0.36, 0.26], abs=5e-3)


# --- the standard distance -----------------------------------------------------------------------------------------


class Bare(Dataset[torch.Tensor]):
    """Images as torch-fidelity's data set, with three channels."""

    def __init__(self, pictures: torch.Tensor) -> None:
        self.pictures = pictures.expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.pictures[index]


def of_few(x: torch.Tensor) -> Statistics:
    """Return statistics of fewer images than features, which slimdiff's own function refuses."""
    wide = x.double()
    return Statistics(wide.mean(dim=0), wide.T.cov(), len(wide))


@pytest.mark.slow
def test_torch_fidelity_computes_the_same_standard_distance(
    networks: dict[str, nn.Module], standard_weights: Tensors, tmp_path: Path
) -> None:
    fidelity: Any = pytest.importorskip("torch_fidelity")
    torch.save(standard_weights, tmp_path / "weights.pth")
    a, b = images(8, seed=1), images(6, seed=2) // 2 + 60
    theirs = fidelity.calculate_metrics(
        input1=Bare(a),
        input2=Bare(b),
        cuda=False,
        fid=True,
        feature_extractor_weights_path=str(tmp_path / "weights.pth"),
        batch_size=5,
        save_cpu_ram=True,  # no worker processes
        cache=False,
        verbose=False,
    )["frechet_inception_distance"]
    ours = frechet_distance(*(of_few(features(networks["standard"], pictures)) for pictures in (a, b)))
    assert ours == pytest.approx(theirs, rel=1e-5)


# --- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_depend_on_order_or_number_of_images(networks: dict[str, nn.Module], kind: str) -> None:
    x = images(5)
    whole = features(networks[kind], x)
    backwards = features(networks[kind], x.flip(0)).flip(0)
    assert torch.allclose(backwards, whole, rtol=1e-6, atol=1e-7)
    assert torch.allclose(features(networks[kind], x[:2]), whole[:2], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_gray_equals_three_equal_channels(networks: dict[str, nn.Module], kind: str) -> None:
    x = images(2)
    assert torch.equal(features(networks[kind], x), features(networks[kind], x.repeat(1, 3, 1, 1)))


def test_the_two_kinds_differ(networks: dict[str, nn.Module], paper_weights: Tensors) -> None:
    """In their columns, and in the features of one image."""
    assert inception.COLUMNS == {"standard": "fid_inception", "paper": "fid_paper"}
    assert set(inception.COLUMNS.values()) <= {column.name for column in MATRIX_COLUMNS}
    standard, paper = (features(networks[kind], images(2)) for kind in KINDS)
    assert (standard - paper).norm() > 0.1 * paper.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_gives_back_what_was_written(networks: dict[str, nn.Module], tmp_path: Path, kind: str) -> None:
    small = torch.eye(3, dtype=torch.float64)
    made = inception.InceptionReference(
        kind, networks[kind], torch.ones(3), small, 2 * small, torch.tensor([4, 5]), 9, "blobs", "00ff"
    )
    inception.write(tmp_path / "one.safetensors", made)
    header = inception.read_header(tmp_path / "one.safetensors")
    assert (header["inception"], header["dataset"], header["weights_sha256"]) == (kind, "blobs", "00ff")
    found = inception.read(tmp_path / "one.safetensors")
    assert (found.kind, found.column, found.n) == (kind, inception.COLUMNS[kind], 9)
    assert torch.equal(found.factor, made.factor)
    assert not found.network.training
    assert torch.equal(features(found.network, images(1)), features(networks[kind], images(1)))


# --- weights -------------------------------------------------------------------------------------------------------


def test_the_configuration_lists_the_same_networks() -> None:
    assert tuple(inception.NETWORKS) == tuple(inception_weights.WEIGHTS) == tuple(inception.COLUMNS) == KINDS
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))
    assert tuple(schema["properties"]["inception"]["properties"]) == KINDS
    assert limits.INCEPTION_FEATURES == inception.FEATURES


def test_the_pinned_hashes_match_the_published_weights() -> None:
    fidelity: Any = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    assert inception_weights.WEIGHTS["standard"].url == fidelity.URL_INCEPTION_V3
    assert inception_weights.WEIGHTS["paper"].url == torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.url
    for known in inception_weights.WEIGHTS.values():
        assert known.url.endswith(f"/{known.names[0]}")
        assert all(name.endswith(f"-{known.sha256[:8]}.pth") for name in known.names)


class Trap:
    """An object that writes a file when unpickled, unless the reader refuses code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "caught")


def pin(monkeypatch: pytest.MonkeyPatch, kind: str, path: Path) -> None:
    """Treat the file at `path` as the published one."""
    known = inception_weights.WEIGHTS[kind]
    digest = files.digest(path)
    monkeypatch.setitem(
        inception_weights.WEIGHTS, kind, inception_weights.Weights(known.url, known.names, digest, known.max_bytes)
    )


def test_other_weights_are_refused_before_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, caught = tmp_path / "weights.pth", tmp_path / "caught"
    path.write_bytes(pickle.dumps(Trap(caught), protocol=2))
    with pytest.raises(UserError, match=r"weights\.pth has SHA-256 .*; config key inception\.paper needs 0cc3"):
        inception_weights.read_weights(path, "paper")
    pin(monkeypatch, "paper", path)
    with pytest.raises(pickle.UnpicklingError):
        inception_weights.read_weights(path, "paper")
    assert not caught.exists()


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist: correct config key inception\.standard, or set"):
        inception_weights.read_weights(tmp_path / "nowhere.pth", "standard")


def fetch_weights(tmp_path: Path, kind: str = "standard") -> Path:
    (tmp_path / "data").mkdir(exist_ok=True)
    out = tmp_path / "out" / "weights.pth"
    places = ["--data-dir", str(tmp_path / "data"), "--out", str(out)]
    weights_stage.main(["--settings", json.dumps({"kind": kind}), *places])
    return out


@pytest.mark.parametrize("name", inception_weights.WEIGHTS["standard"].names)
def test_weights_placed_by_the_user_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "data").mkdir()
    placed = tmp_path / "data" / name
    torch.save({"a": torch.ones(2)}, placed)
    with pytest.raises(UserError, match=f"{name} has SHA-256 .*; config key inception"):
        fetch_weights(tmp_path)
    assert not (tmp_path / "out").exists()
    pin(monkeypatch, "standard", placed)
    assert fetch_weights(tmp_path).read_bytes() == placed.read_bytes()
    assert torch.equal(inception_weights.read_weights(placed, "standard")["a"], torch.ones(2))


def test_a_download_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    def fetch(url: str, max_bytes: int) -> bytes:
        requested.append((url, max_bytes))
        return b"an error page"

    monkeypatch.setattr(weights_stage, "fetch", fetch)
    with pytest.raises(UserError, match=r"^https://download\.pytorch\.org/\S+ has SHA-256 .*; config key"):
        fetch_weights(tmp_path, "paper")
    assert requested == [(inception_weights.WEIGHTS["paper"].url, inception_weights.WEIGHTS["paper"].max_bytes)]
    assert not (tmp_path / "out").exists()


def test_without_weights_and_internet_the_error_names_the_fixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(url: str, max_bytes: int) -> bytes:
        raise Unavailable(f"{url}: no route to host")

    monkeypatch.setattr(weights_stage, "fetch", fetch)
    with pytest.raises(UserError) as raised:
        fetch_weights(tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    for part in ("inception.standard is download", "no route to host", "config key data_dir", "path or to null"):
        assert part in message


# --- from images to a distance, with a network of eight features ---------------------------------------------------


class Tiny(nn.Module):
    """A fast replacement for the networks: eight means of randomly weighted pixels."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensors["weight"])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float().flatten(1) @ self.weight

    def tensors(self) -> Tensors:
        return {"weight": self.weight.detach()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tensors:
    monkeypatch.setitem(inception.NETWORKS, "paper", Tiny)
    monkeypatch.setattr(inception, "FEATURES", 8)
    monkeypatch.setattr(limits, "INCEPTION_FEATURES", 8)
    return {"weight": torch.randn(3 * 64, 8, generator=torch.Generator().manual_seed(0)) / 255}


def of_one_class(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pictures, torch.zeros(len(pictures), dtype=torch.int64)


def test_the_distance_is_computed_from_the_features(tiny: Tensors) -> None:
    network, a, b = build("paper", tiny), images(100, (1, 8, 8), 1), images(70, (1, 8, 8), 2) // 2
    reference = measure(of_one_class(a), "paper", network, "blobs", "00ff")
    assert (reference.n, reference.weights_sha256, reference.column) == (100, "00ff", "fid_paper")
    assert score_inception(a, NO_LABELS, reference) == pytest.approx(
        0, abs=1e-9 * reference.covariance[0].trace().item()
    )
    expected = frechet_distance(*(of_few(pictures.repeat(1, 3, 1, 1).float().flatten(1) @ tiny["weight"])
                                  for pictures in (a, b)))  # fmt: skip
    assert score_inception(b, NO_LABELS, reference) == pytest.approx(expected, rel=1e-6)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(3))
    assert score_inception(b[order], NO_LABELS, reference) == pytest.approx(
        score_inception(b, NO_LABELS, reference), rel=1e-9
    )


def test_the_training_images_get_the_composition_of_the_labels(tiny: Tensors) -> None:
    """That of the training set or an equal one; the statistics allow no other."""
    x, labels = images(90, (1, 8, 8), 1), (torch.arange(90) % 3 == 0).long()
    x[labels == 1] //= 2
    reference = measure((x, labels), "paper", build("paper", tiny), "blobs", "00ff")
    samples, features = images(30, (1, 8, 8), 2), x.repeat(1, 3, 1, 1).float().flatten(1) @ tiny["weight"]
    plain, equal = (
        frechet_distance(
            statistics(features, weights), of_few(samples.repeat(1, 3, 1, 1).float().flatten(1) @ tiny["weight"])
        )
        for weights in (None, (1 / labels.bincount().double())[labels])
    )
    for classes, expected in ((NO_LABELS, plain), (torch.arange(30) // 20, plain), (torch.arange(30) % 2, equal)):
        assert score_inception(samples, classes, reference) == pytest.approx(expected, rel=1e-6)
    assert equal > 1.01 * plain or plain > 1.01 * equal
    with pytest.raises(UserError, match=r"\[5, 25\].*inception\.paper to null"):
        score_inception(samples, (torch.arange(30) >= 5).long(), reference)


def test_fewer_images_than_features_are_refused(tiny: Tensors) -> None:
    network = build("paper", tiny)
    with pytest.raises(
        UserError, match=r"inception\.paper needs 8 training images or more, .* blobs has 7; set it to null"
    ):
        measure(of_one_class(images(7, (1, 8, 8))), "paper", network, "blobs", "00ff")
    reference = measure(of_one_class(images(20, (1, 8, 8))), "paper", network, "blobs", "00ff")
    with pytest.raises(UserError, match=r"sampling\.n_samples is 7; allowed with inception\.paper: 8 or more"):
        score_inception(images(7, (1, 8, 8)), NO_LABELS, reference)


def test_the_stage_writes_the_reference(tiny: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, out = tmp_path / "weights.pth", tmp_path / "inception-paper.safetensors"
    torch.save(tiny, weights)
    x, labels = images(50, (1, 8, 8)), torch.zeros(50, dtype=torch.int64)
    image_set.write(
        tmp_path / "images.safetensors",
        ImageSet(x, labels, x[:5].clone(), labels[:5].clone(), "blobs", ("a", "b"), "made up"),
    )
    arguments = ["--settings", json.dumps({"dataset": "blobs", "kind": "paper"}), "--out", str(out)]
    arguments += ["--images", str(tmp_path / "images.safetensors"), "--weights", str(weights)]
    with pytest.raises(UserError, match=r"config key inception\.paper"):
        inception_stage.main(arguments)
    pin(monkeypatch, "paper", weights)
    inception_stage.main(arguments)
    found, expected = (
        inception.read(out),
        measure((x, labels), "paper", build("paper", tiny), "blobs", files.digest(weights)),
    )
    assert torch.equal(found.covariance, expected.covariance)
    assert (found.dataset, found.n, found.weights_sha256) == ("blobs", 50, files.digest(weights))
    assert found.column == "fid_paper"
