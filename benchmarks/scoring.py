"""FID of 10,000 images against 60,000 with the shipped MNIST extractor: slimdiff against torch-fidelity.

Both know the reference already, as when the second cell of a matrix is scored: slimdiff from its reference, torch-
fidelity from its cache. The images are made up, since their content costs nothing; that the values agree on real ones
is a test. torch-fidelity runs as it is documented, with its default batch of 64, and with batches of 500; both work in
its single precision, ours in double. Figures are seconds per score.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from _record import interleaved, record
from torch.utils.data import Dataset

from slimdiff.devices import pick_device
from slimdiff.metrics import extractors
from slimdiff.metrics.frechet import factor, frechet_distance, statistics

SHIPPED = Path(__file__).parents[1] / "workflow/resources/extractors/mnist.safetensors"
GENERATED, REAL, THREADS, ROUNDS = 10_000, 60_000, 2, 3
EXTRACTOR = extractors.read(SHIPPED)[0]


class Bare(Dataset[torch.Tensor]):
    """Images as torch-fidelity takes them."""

    def __init__(self, n: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.pictures = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=draw)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.pictures[index]


class Registered(torch_fidelity.FeatureExtractorBase):
    """Our extractor in torch-fidelity's terms, in single precision as its own are."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.extractor = extractors.read(SHIPPED)[0].float()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (str(extractors.FEATURES),)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return str(extractors.FEATURES)

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> None:
        return None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.extractor(x),)


def main() -> None:
    """Measure at both batch sizes."""
    pick_device(0, THREADS)
    torch_fidelity.register_feature_extractor("mnist", Registered)
    real, generated = Bare(REAL, 1), Bare(GENERATED, 2)
    reference = statistics(extractors.features(EXTRACTOR, real.pictures))
    known = factor(reference.covariance)
    values: dict[str, float] = {}

    def ours() -> float:
        start = time.perf_counter()
        found = statistics(extractors.features(EXTRACTOR, generated.pictures))
        values["ours"] = frechet_distance(reference, found, known)
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as cache:

        def theirs(batch_size: int) -> float:
            start = time.perf_counter()
            found = torch_fidelity.calculate_metrics(
                input1=generated,
                input2=real,
                input2_cache_name="real",
                cache_root=cache,
                cuda=False,
                fid=True,
                feature_extractor="mnist",
                batch_size=batch_size,
                save_cpu_ram=True,
                verbose=False,
            )
            values["theirs"] = found["frechet_inception_distance"]
            return time.perf_counter() - start

        theirs(500)  # fills the cache
        for batch_size in (64, 500):
            measured = interleaved(ours, lambda size=batch_size: theirs(size), ROUNDS)
            apart = {"relative_difference": abs(values["theirs"] / values["ours"] - 1)}
            name = f"score of {GENERATED:,} images: torch-fidelity, batches of {batch_size} / slimdiff (s)"
            record(name, {**measured, **apart}, THREADS)


if __name__ == "__main__":
    main()
