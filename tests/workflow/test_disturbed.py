"""Two real runs of two cells, one of them disturbed in every way; and errors for damaged files.

docs/reliability.md lists these faults and their effects.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clones import REPOSITORY, STAGE_FORKS, clone, snakemake, stage_forks, with_site
from faults import end, launch, press_ctrl_c, same_but_for_times, stages_in, wait_for

from slimdiff.analysis import matrix
from slimdiff.checkpoints.identity import check_identity
from slimdiff.checkpoints.model import read_tensors
from slimdiff.checkpoints.weights import read_training, read_verified
from slimdiff.config.cells import Cell
from slimdiff.data import image_set
from slimdiff.errors import UserError
from slimdiff.io import records
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.samples import read_samples
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.metrics import reference
from slimdiff.metrics.networks import classifier, extractors
from slimdiff.stages import compress, profile, row, sample

pytestmark = pytest.mark.slow

OVERLAY = "matrix: [{dataset: digits, model: ncsn, optimizations: [baseline, l1-30], seeds: [0]}]\n"
RUN = ("results/matrix.parquet", "--cores", "1", "--configfile", "config/smoke.yaml", "two.yaml")
TRAINING = Path("train/digits/ncsn/plain/seed0")
CELLS = Path("cells/digits/ncsn")
OWN, OTHER = CELLS / "baseline" / "seed0", CELLS / "l1-30" / "seed0"


def prepared(target: Path) -> Path:
    """A clone that requests two cells; its training is slow while the file `slow` exists."""
    folder = clone(target)
    (folder / "two.yaml").write_text(OVERLAY, encoding="utf-8")
    return with_site(folder, REPOSITORY / "tests" / "helpers" / "slow.py", STAGE_FORKS)


@pytest.fixture(scope="module")
def calm(smoke_run: Path) -> Path:
    """An undisturbed run that has the same two cells, among others."""
    return smoke_run


def test_a_disturbed_run_ends_with_the_same_matrix(calm: Path, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "slimdiff")
    shutil.copytree(calm / "results" / "data", folder / "results" / "data")
    log = folder / "results/logs" / TRAINING.with_suffix(".log")
    state = folder / "results/state" / TRAINING / "state.safetensors"
    (folder / "slow").touch()

    def trains(what: str, *known: int) -> int:
        """Return the process of a training whose log contains `what`."""

        def found() -> list[int]:
            new = [pid for pid in stages_in(folder, "train") if pid not in known]
            return new if new and log.exists() and what in log.read_text() else []

        wait_for(found, f"a training that says {what!r}")
        return found()[0]

    # kill -9 of Snakemake alone: its training saves its state and ends
    run = launch(folder, *RUN)
    trains("step ")
    end(run, signal.SIGKILL)
    wait_for(lambda: not stages_in(folder), "the orphan to end")
    saved = read_header(state, "state")["progress"]["step"]
    assert saved > 0

    # kill -9 of the trainer: the same run retries; then Ctrl-C
    run = launch(folder, *RUN)
    first = trains(f"resuming at step {saved}/")
    os.kill(first, signal.SIGKILL)
    trains(f"resuming at step {saved}/", first)
    assert press_ctrl_c(run) == 1
    wait_for(lambda: not stages_in(folder), "the training to end")

    # kill -9 of both
    run = launch(folder, *RUN)
    end(run, signal.SIGKILL, trains(f"resuming at step {saved}/"))
    wait_for(lambda: not stages_in(folder), "the training to end")

    # the plain command continues; then one bit of a model flips, and samples are truncated
    (folder / "slow").unlink()
    samples = [str("results" / cell / "samples.npz") for cell in (OWN, OTHER)]
    done = snakemake(folder, *samples, *RUN[1:], STAGE_FORKS=stage_forks())
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "results" / TRAINING / "train.json").read_text())["interruptions"] == 1
    model, cut = folder / "results" / OTHER / "model.safetensors", folder / "results" / OWN / "samples.npz"
    model.write_bytes(flipped(model.read_bytes(), 300))
    cut.write_bytes(cut.read_bytes()[:-100])
    refused = snakemake(folder, *RUN, STAGE_FORKS=stage_forks())
    assert refused.returncode == 1
    for path in (model, cut):
        path = path.relative_to(folder)
        assert f"error: {path} is " in refused.stdout + refused.stderr, "the file's name, in one line"
        (folder / path).unlink()

    # the next run remakes the deleted files
    done = snakemake(folder, *RUN, STAGE_FORKS=stage_forks())
    assert done.returncode == 0, done.stdout + done.stderr
    same_but_for_times(folder, calm)
    weights = "results" / TRAINING / "weights.safetensors"
    assert (folder / weights).read_bytes() == (calm / weights).read_bytes()


def flipped(content: bytes, position: int) -> bytes:
    """Return `content` with one bit flipped."""
    changed = bytearray(content)
    changed[position] ^= 1 << position % 8
    return bytes(changed)


def expected_origin(folder: Path) -> dict[str, Any]:
    """Return the `--origin` that the rules pass to `compress` for these weights."""
    header = read_header(folder / TRAINING / "weights.safetensors", "training")
    known = {key: header[key] for key in ("model", "training", "seed", "code")}
    return {**known, "dataset": header["dataset"]["name"], "start": None}


# Files of a run, and their readers.
FILES: dict[str, tuple[Path, Callable[[Path, Path], Any]]] = {
    "images": (
        Path("data/digits/images.safetensors"),
        lambda path, root: vars(image_set.read(path)),
    ),
    "extractors": (
        Path("data/digits/extractors.safetensors"),
        lambda path, root: [network.state_dict() for network in extractors.read(path)],
    ),
    "classifier": (
        Path("data/digits/classifier.safetensors"),
        lambda path, root: classifier.read(path).state_dict(),
    ),
    "reference": (Path("data/digits/reference.safetensors"), lambda path, root: vars(reference.read(path))),
    "weights": (
        TRAINING / "weights.safetensors",
        lambda path, root: read_verified(path, "raw", expected_origin(root))[0].state_dict(),
    ),
    "model": (OWN / "model.safetensors", lambda path, root: read_tensors(path)),
    "packed": (OWN / "model.packed", lambda path, root: read_tensors(path)),
    "samples": (OWN / "samples.npz", lambda path, root: vars(read_samples(path))),
    "score": (OWN / "score.json", lambda path, root: records.read_json(path)),
    "profile": (OWN / "profile.json", lambda path, root: records.read_json(path)),
    "row": (OWN / "row.json", lambda path, root: records.read_json(path)),
    "matrix": (Path("matrix.parquet"), lambda path, root: matrix.read_matrix(path).frame.to_dict("list")),
}
FLIPS = 100  # positions: half of them in the header, and some at the end


def alike(found: Any, meant: Any) -> bool:
    """Return whether everything in the original was read; a digest's key may have changed into an additional key."""
    if isinstance(meant, torch.Tensor):
        return torch.equal(found, meant)
    if isinstance(meant, np.ndarray):
        return np.array_equal(found, meant)
    if isinstance(meant, dict):
        return found.keys() >= meant.keys() and all(alike(found[key], meant[key]) for key in meant)
    if isinstance(meant, list | tuple):
        return len(found) == len(meant) and all(map(alike, found, meant))
    return bool(found is meant or found == meant)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_changes_nothing_or_is_refused(calm: Path, tmp_path: Path, name: str) -> None:
    """Values never change and there is no traceback: the error names the file and says how to remake it."""
    relative, read = FILES[name]
    source = calm / "results" / relative
    content = source.read_bytes()
    near = range(0, min(len(content), 2000), max(1, min(len(content), 2000) // (FLIPS // 2)))
    far = range(0, len(content), max(1, len(content) // (FLIPS // 2)))
    meant, path, refused = read(source, calm / "results"), tmp_path / source.name, 0
    for position in {*near, *far, len(content) - 1}:
        path.write_bytes(flipped(content, position))
        try:
            found = read(path, calm / "results")
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
            assert "run again" in str(error)
        else:
            assert alike(found, meant), f"bit {position % 8} of byte {position} gave something else"
    assert refused > FLIPS // 3


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(calm: Path, tmp_path: Path, name: str) -> None:
    relative, read = FILES[name]
    content = (calm / "results" / relative).read_bytes()
    path = tmp_path / relative.name
    for length in (0, 7, 100, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"(?s)run again") as caught:
            read(path, calm / "results")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 1), ("code", "0123456789ab"), ("training", {"epochs": 1}), ("dataset", {"name": "mnist"})],
)
def test_weights_of_another_training_are_refused(calm: Path, tmp_path: Path, key: str, value: Any) -> None:
    """Intact and under the right name, but of another seed, code, settings or data."""
    folder = calm / "results"
    tensors, header = load_tensors(folder / TRAINING / "weights.safetensors", "training")
    header[key] = {**header[key], **value} if isinstance(value, dict) else value
    foreign = tmp_path / "weights.safetensors"
    save_tensors(foreign, "training", tensors, header)
    assert read_training(foreign, "raw")[1][key] == header[key], "nothing is wrong with the file itself"
    recipe = {"weights": "raw", "steps": [], "sampler": {}, "engine": "torch", "precision": "fp32", "seed": 0}
    out = ["--out", str(tmp_path / "model.safetensors"), "--out-packed", str(tmp_path / "model.packed")]
    arguments = ["--settings", json.dumps(recipe), "--origin", json.dumps(expected_origin(folder))]
    with pytest.raises(
        UserError, match=rf"weights.safetensors does not match this cell: its {key} is .*, expected .*run again"
    ):
        compress.main([*arguments, "--weights", str(foreign), *out])
    assert not (tmp_path / "model.safetensors").exists()


def test_a_model_of_another_cell_is_refused(calm: Path, tmp_path: Path) -> None:
    """By the stages that sample from it and measure it."""
    own, other = (calm / "results" / cell / "model.safetensors" for cell in (OWN, OTHER))
    expected = read_header(own, "model")["identity"]
    assert len(expected) == 16
    check_identity(own, expected, expected)
    settings = {"n_samples": 4, "batch_size": 4, "seed": 0, "repeats": 1, "warmup": 0}
    common = ["--settings", json.dumps(settings), "--model", str(other), "--identity", expected, "--gpu", "0"]
    out = ["--out", str(tmp_path / "out")]
    for stage, more in (
        (sample, ["--out-grid", str(tmp_path / "grid.png")]),
        (profile, ["--images", str(calm / "results" / "data" / "digits" / "images.safetensors"), "--packed", "none"]),
    ):
        with pytest.raises(UserError, match=rf"l1-30/seed0/model.safetensors is not this .*{expected}.*run again"):
            stage.main([*common, *out, *more])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("record", ["score", "profile"])
def test_records_of_another_cell_are_refused(calm: Path, tmp_path: Path, record: str) -> None:
    folder = calm / "results"
    files = {"train": folder / TRAINING / "train.json"}
    files |= {name: folder / OWN / f"{name}.json" for name in ("score", "profile")}
    expected = records.read_json(files["score"])["identity"]
    assert read_samples(folder / OWN / "samples.npz").identity == expected
    files[record] = folder / OTHER / f"{record}.json"
    trained = json.loads(files["train"].read_text())["settings"]
    cell = {"dataset": "digits", "model": "ncsn", "optimization": "baseline", "training": "plain", "seed": 0}
    cell |= {"engine": "torch", "engine_precision": "fp32", "settings": {"train": trained}}
    named = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    arguments = ["--cell", json.dumps(cell), *named, "--identity", expected, "--out", str(tmp_path / "row.json")]
    with pytest.raises(UserError, match=rf"l1-30/seed0/{record}.json is not this cell's.*run again"):
        row.main(arguments)


def test_a_row_of_another_cell_is_refused(calm: Path, tmp_path: Path) -> None:
    shutil.copytree(calm / "results" / "cells", tmp_path / "cells")
    shutil.copy(tmp_path / OTHER / "row.json", tmp_path / OWN / "row.json")
    cells, trainings = [Cell("digits", "ncsn", "baseline", 0)], {"baseline": "plain"}
    with pytest.raises(UserError, match=r"baseline/seed0/row.json is not a row .* expected 'baseline'; delete it"):
        matrix.read_rows(tmp_path / "cells", cells, trainings)
