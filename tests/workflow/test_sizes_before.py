"""A dry run says what no job could do: images that do not fit, too few of them, results that the disk cannot hold."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clones import clone, snakemake
from photos import write_photos


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which nothing has run."""
    return clone(tmp_path_factory.mktemp("known") / "slimdiff")


def dry_run(folder: Path, overlay: Path) -> str:
    """The one line of a refused dry run."""
    done = snakemake(folder, "--dry-run", "--cores", "1", "--configfile", str(overlay))
    assert done.returncode == 1
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("n", "size", "expected"),
    [
        (45, 64, "models.ddpm.fit is pad, which cannot shrink the 64×64 images"),
        (10, 16, "datasets.mine has 16 training"),
    ],
)
def test_a_folder_that_no_job_could_use(fresh: Path, tmp_path: Path, n: int, size: int, expected: str) -> None:
    write_photos(tmp_path / "photos", n=n, size=size)
    source = {"source": "folder", "path": str(tmp_path / "photos"), "channels": 3, "test_fraction": 0.25}
    overlay = {
        "datasets": {"mine": {**source, "image_size": size}},
        "models": {"ddpm": {"image_size": 32, "network": {"classes": 2}}},
        "matrix": [{"dataset": "mine", "model": "ddpm", "optimizations": ["baseline"], "seeds": [0]}],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    assert expected in dry_run(fresh, tmp_path / "mine.yaml")


@pytest.fixture
def small_disk(fresh: Path) -> Iterator[Path]:
    """A file system of one megabyte for the results."""
    results = fresh / "results"
    results.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(results)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield results
    subprocess.run(["umount", str(results)], check=True)


def test_results_that_the_disk_cannot_hold(fresh: Path, small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("{}")
    line = dry_run(fresh, tmp_path / "empty.yaml")
    assert "results has " in line
    assert "MB or more" in line
    for arguments in (["results/data/digits/images.safetensors", "--dry-run"], ["--unlock"], ["--delete-all-output"]):
        done = snakemake(fresh, "--cores", "1", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
