"""Fixtures and settings for all tests."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported; see clones.ENVIRONMENT
os.environ.setdefault("SLIMDIFF_FORK_SERVER", "")

import hypothesis
import pytest
import torch
from clones import SMOKE, clone, finish, stage_forks, with_stage_forks
from shared import once

from slimdiff.data import image_set, sources
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError

gc.set_threshold(50_000, 20, 50)  # collecting 5,000 tests takes a sixth less; of the suite's garbage little is cyclic

# The same examples in every run, so a failure in CI repeats on a laptop; `--hypothesis-profile=default` draws new ones.
# No time limit per example: a busy machine is not a bug.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Restore denormal numbers, which stages flush to zero for the whole process."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; skips a missing GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a real finished run of config/smoke.yaml."""

    def make(folder: Path) -> Path:
        return finish(with_stage_forks(clone(folder)), *SMOKE, STAGE_FORKS=stage_forks("bitsandbytes"))

    return once(tmp_path_factory, "smoke", make)


@pytest.fixture(scope="session")
def mnist_images(request: pytest.FixtureRequest) -> ImageSet:
    """The real MNIST, downloaded once into pytest's cache; skips if it is unavailable.

    SLIMDIFF_DATA_DIR names a folder with the files, like `data_dir` in the config.
    """
    kept = request.config.cache.mkdir("slimdiff-mnist") / "images.safetensors"
    if not kept.exists():
        data_dir = Path(os.environ.get("SLIMDIFF_DATA_DIR", request.config.rootpath / "data"))
        try:
            found = sources.load(sources.DataSettings(name="mnist", source="mnist"), data_dir)
        except UserError as error:
            pytest.skip(str(error))
        image_set.write(kept, found)
    return image_set.read(kept)
