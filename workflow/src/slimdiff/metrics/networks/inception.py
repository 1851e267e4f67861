"""FID in Inception features, optional, in two kinds that are never mixed.

`standard` is the published FID: torch-fidelity's port of the network of 2015-12-05, with its resize. `paper` is the
paper's: hukkelas/pytorch-frechet-inception-distance with torchvision's weights, which normalizes its input twice.

A data set's reference contains the network and the statistics, so scoring needs one file and no pickle.
"""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.catalog.compositions import apportion
from slimdiff.catalog.limits import INCEPTION_FEATURES as FEATURES
from slimdiff.catalog.limits import inception_faults, sample_faults
from slimdiff.errors import UserError, refuse
from slimdiff.io import safetensors_header
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.metrics.frechet import Statistics, factor, frechet_distance, statistics
from slimdiff.metrics.networks.fit import Labelled

KIND = "inception"
INPUT_SIDE = 299  # pixels
BATCH_SIZE = 32  # fixed, see features
NETWORK_PREFIX = "network."  # of its tensors in the reference's file
TENSORS = ("mean", "covariance", "factor", "class_counts")  # of the reference's file, besides the network
COLUMNS = {"standard": "fid_inception", "paper": "fid_paper"}  # by kind


@dataclass(frozen=True)
class InceptionReference:
    """Statistics of a data set's training images in the features of one Inception network.

    The first are those of all images; the last those with every class weighted alike, missing if classes are equally
    large.
    """

    kind: str  # standard or paper
    network: nn.Module  # frozen; takes uint8 (N, 3, H, W), gives (N, 2048)
    mean: torch.Tensor  # float64 (1 or 2, 2048)
    covariance: torch.Tensor  # float64 (1 or 2, 2048, 2048)
    factor: torch.Tensor  # float64 (1 or 2, 2048, 2048), factor(covariance)
    class_counts: torch.Tensor  # int64 (classes,), training images
    n: int  # training images
    dataset: str
    weights_sha256: str  # of the published weights

    @property
    def column(self) -> str:
        """The matrix column of this distance."""
        return COLUMNS[self.kind]

    def index(self, labels: torch.Tensor) -> int:
        """Return which of the statistics have the composition of samples with `labels`, int64 (n,) or (0,).

        Raises:
            UserError: none has.
        """
        shares, n = self.class_counts.tolist(), len(labels)
        counts = torch.bincount(labels, minlength=len(shares)).tolist()
        if counts == apportion(n, shares):
            return 0
        if counts == apportion(n, [1] * len(shares)) and all(shares):
            return -1
        raise UserError(
            f"the samples hold {counts} images of the classes; allowed with Inception features: the training set's "
            f"shares or, if every class has training images, equal ones: sample again, or set config key "
            f"inception.{self.kind} to null"
        )


def build(kind: str, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return the frozen network of `kind` with these weights: uint8 (N, 3, H, W) → float32 (N, 2048)."""
    network = NETWORKS[kind](tensors)
    return network.eval().requires_grad_(False)


class InceptionNetwork(nn.Module):
    """An Inception network in `inception`, with the preprocessing of its kind."""

    inception: nn.Module

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights that `build` takes."""
        return dict(self.inception.state_dict())


class Standard(InceptionNetwork):
    """torch-fidelity's Inception: it resizes like TensorFlow 1 and maps pixels to (x - 128) / 128."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # It loads its file without torch.load's safety, so it gets bytes made here from verified tensors.
        packed = io.BytesIO()
        torch.save(dict(tensors), packed)
        packed.seek(0)
        self.inception = FeatureExtractorInceptionV3(
            "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=packed
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.inception(images)[0]
        return features


class Paper(InceptionNetwork):
    """torchvision's Inception with the paper's input: scaled to [-1, 1], then shifted again by transform_input.

    The network's three input channels lie in [-0.49, 0.43], [-0.54, 0.36] and [-0.64, 0.26].
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        self.inception = inception_v3(weights=None, aux_logits=False, transform_input=True, init_weights=False)
        self.inception.fc = nn.Identity()  # the features, not the classes
        used = {name: tensor for name, tensor in tensors.items() if not name.startswith(("AuxLogits.", "fc."))}
        self.inception.load_state_dict(used)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() / 255.0
        x = F.interpolate(x, size=(INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=False)
        features: torch.Tensor = self.inception(x * 2 - 1)
        return features


NETWORKS: dict[str, Callable[[Mapping[str, torch.Tensor]], Any]] = {"standard": Standard, "paper": Paper}


@torch.inference_mode()
def features(network: nn.Module, images: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the features of `images`, uint8 (N, 1 or 3, H, W), as float32 (N, 2048) on the CPU.

    Gray becomes three equal channels. Single precision, as published. Every batch has the same size, the last one
    padded, so an image's features do not depend on the number of images.
    """
    network.to(device)
    results = torch.empty(len(images), FEATURES)
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        full = torch.cat([batch, batch[-1:].expand(BATCH_SIZE - len(batch), -1, -1, -1)])
        rgb = full.expand(-1, 3, -1, -1).to(device)
        results[start : start + BATCH_SIZE] = network(rgb)[: len(batch)].cpu()
    return results


def measure(
    train: Labelled,
    kind: str,
    network: nn.Module,
    dataset: str,
    weights_sha256: str,
    device: torch.device | str = "cpu",
) -> InceptionReference:
    """Return the reference of one data set from its training images, uint8 (N, C, H, W), and labels, int64 (N,).

    Raises:
        UserError: there are fewer images than features.
    """
    train_images, labels = train
    refuse(inception_faults(kind, dataset, len(train_images)))
    found, class_counts = features(network, train_images, device), torch.bincount(labels)
    compositions = [statistics(found)]
    if class_counts.unique().numel() > 1:
        compositions.append(statistics(found, (1 / class_counts.double())[labels]))
    return InceptionReference(
        kind=kind,
        network=network,
        mean=torch.stack([real.mean for real in compositions]),
        covariance=torch.stack([real.covariance for real in compositions]),
        factor=torch.stack([factor(real.covariance) for real in compositions]),
        class_counts=class_counts,
        n=len(train_images),
        dataset=dataset,
        weights_sha256=weights_sha256,
    )


def score_inception(
    images: torch.Tensor, labels: torch.Tensor, reference: InceptionReference, device: torch.device | str = "cpu"
) -> float:
    """Return the Fréchet distance between `images`, uint8 (N, C, H, W), and the training images.

    It belongs in the column `reference.column`; the two kinds are not comparable.

    Args:
        labels: int64 (N,), the requested classes, whose composition the training images get; (0,) without classes.

    Raises:
        UserError: there are fewer images than features, or the classes have other shares than the reference allows.
    """
    refuse(sample_faults(reference.kind, len(images)))
    index = reference.index(labels)
    real = Statistics(reference.mean[index], reference.covariance[index], reference.n)
    generated = statistics(features(reference.network, images, device))
    return frechet_distance(real, generated, reference.factor[index])


def write(path: str | os.PathLike[str], reference: InceptionReference) -> None:
    """Write `reference` with its network: about 160 MB."""
    network: Any = reference.network
    tensors = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.tensors().items()}
    tensors |= {name: getattr(reference, name) for name in TENSORS}
    header = {
        "inception": reference.kind,
        "dataset": reference.dataset,
        "n": reference.n,
        "weights_sha256": reference.weights_sha256,
    }
    save_tensors(path, KIND, tensors, header)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return `inception` (the kind), `dataset`, `n` and `weights_sha256` from the header of `path`.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    return safetensors_header.read_header(path, KIND)


def read(path: str | os.PathLike[str]) -> InceptionReference:
    """Return the reference in `path` with its network, on the CPU.

    Raises:
        UserError: the file is missing, damaged, of another kind, or from an older slimdiff.
    """
    tensors, header = load_tensors(path, KIND)
    names = [name for name in tensors if name.startswith(NETWORK_PREFIX)]
    weights = {name.removeprefix(NETWORK_PREFIX): tensors.pop(name) for name in names}
    if missing := [name for name in TENSORS if name not in tensors]:
        raise UserError(f"{path} is from an older slimdiff and lacks {missing[0]}: delete it and run again")
    return InceptionReference(
        **tensors,
        kind=header["inception"],
        network=build(header["inception"], weights),
        n=header["n"],
        dataset=header["dataset"],
        weights_sha256=header["weights_sha256"],
    )
