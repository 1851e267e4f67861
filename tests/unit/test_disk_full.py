"""Training on a full disk: a small file system that is enlarged later."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import small_model, striped_images, training

from slimdiff.data import image_set
from slimdiff.io.tensors import load_tensors
from slimdiff.stages import train

SETTINGS = {
    "dataset": "stripes",
    "model": small_model(),
    "training": training(epochs=2, batch_size=16),
    "seed": 0,
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for one saved state but not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=500k", "none", folder]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_training_on_a_full_disk_keeps_its_last_state_and_goes_on(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_set.write(tmp_path / "images.safetensors", striped_images())

    def run(folder: Path) -> None:
        """Run a training that saves its state after every step."""
        arguments = ["--settings", json.dumps(SETTINGS), "--images", str(tmp_path / "images.safetensors"), "--gpu", "0"]
        arguments += ["--state", str(folder / "state"), "--seconds-between-saves", "0"]
        train.main([*arguments, "--out-weights", str(folder / "w.safetensors"), "--out-record", str(folder / "t.json")])

    with pytest.raises(Exception, match="No space left on device"):
        run(disk)
    step = load_tensors(disk / "state" / "state.safetensors", "state")[1]["progress"]["step"]
    assert step > 0, "the last saved state is valid"
    assert not [path.name for path in (disk / "state").iterdir() if path.name.startswith(".")], (
        "no temporary file is left"
    )
    assert not (disk / "w.safetensors").exists()

    subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
    run(disk)
    assert f"resuming at step {step}/" in capsys.readouterr().out
    run(tmp_path)
    assert (disk / "w.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()
