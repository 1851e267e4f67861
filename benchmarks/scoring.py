"""FID of 10,000 images against 60,000 with the shipped MNIST extractor: slimdiff against torch-fidelity.

slimdiff reads the real images once, for the reference of a data set. torch-fidelity reads them each time unless its
cache has a name, so both cases are measured, in single precision, its default, and in double, slimdiff's precision. The
images are noise, since content does not affect the time; a test checks that the values agree to 1e-5 on real ones.
Times are seconds per score.
"""

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from _record import interleaved, record
from torch.utils.data import Dataset

from slimdiff.catalog.limits import FEATURES
from slimdiff.metrics.frechet import factor, frechet_distance, statistics
from slimdiff.metrics.networks import extractors
from slimdiff.runtime.devices import pick_device

SHIPPED = Path(__file__).parents[1] / "workflow/resources/extractors/mnist.safetensors"
GENERATED, REAL, THREADS, ROUNDS = 10_000, 60_000, 2, 3
EXTRACTOR = extractors.read(SHIPPED)[0]


class Bare(Dataset[torch.Tensor]):
    """A data set of images for torch-fidelity."""

    def __init__(self, n: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.pictures = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=draw)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.pictures[index]


class Single(torch_fidelity.FeatureExtractorBase):
    """Our extractor for torch-fidelity, in single precision like its own."""

    precision = torch.float32

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.extractor = extractors.read(SHIPPED)[0].to(self.precision)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (str(FEATURES),)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return str(FEATURES)

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> None:
        return None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.extractor(x),)


class Double(Single):
    """The same in double precision."""

    precision = torch.float64


# Settings of torch-fidelity: extractor, batch size, cached statistics of the real images
VARIANTS = {
    "default settings": ("single", 64, False),
    "real images cached, batches of 500": ("single", 500, True),
    "the same in double precision": ("double", 500, True),
}


def main() -> None:
    """Measure each of VARIANTS."""
    pick_device(0, THREADS)
    torch_fidelity.register_feature_extractor("single", Single)
    torch_fidelity.register_feature_extractor("double", Double)
    real, generated = Bare(REAL, 1), Bare(GENERATED, 2)
    reference = statistics(extractors.features(EXTRACTOR, real.pictures))
    reference_factor = factor(reference.covariance)
    values: dict[str, float] = {}

    def ours() -> float:
        start = time.perf_counter()
        samples = statistics(extractors.features(EXTRACTOR, generated.pictures))
        values["ours"] = frechet_distance(reference, samples, reference_factor)
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as cache:

        def theirs(variant: str) -> float:
            extractor, batch_size, cached = VARIANTS[variant]
            start = time.perf_counter()
            metrics = torch_fidelity.calculate_metrics(
                input1=generated,
                input2=real,
                input2_cache_name=f"real-{extractor}" if cached else None,
                cache_root=cache,
                cuda=False,
                fid=True,
                feature_extractor=extractor,
                batch_size=batch_size,
                save_cpu_ram=True,
                verbose=False,
            )
            values["theirs"] = metrics["frechet_inception_distance"]
            return time.perf_counter() - start

        for variant, (_, _, cached) in VARIANTS.items():
            if cached:
                theirs(variant)
            measured = interleaved(ours, functools.partial(theirs, variant), ROUNDS)
            difference = {"difference": abs(values["theirs"] - values["ours"])}
            name = f"score of {GENERATED:,} images against {REAL:,}: torch-fidelity, {variant} / slimdiff (s)"
            record(name, {**measured, **difference}, THREADS)


if __name__ == "__main__":
    main()
