"""From images to score.json through the stages, and every way in which their inputs may not belong together."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slimdiff import files
from slimdiff.data import store
from slimdiff.data.store import ImageSet
from slimdiff.errors import UserError
from slimdiff.metrics import extractors, reference
from slimdiff.metrics.extractors import Extractor, features
from slimdiff.metrics.frechet import frechet_distance, statistics
from slimdiff.stages import extractors as extractors_stage
from slimdiff.stages import reference as reference_stage
from slimdiff.stages import score as score_stage

KEYS = {
    "status",
    "reason",
    "n_samples",
    "fid",
    "rfid",
    "fid_extractors",
    "class_accuracy",
    "fid_floor",
    "rfid_floor",
    "fid_floor_n",
    "extractors_sha256",
    "reference_n",
    "network_evaluations",
    "sampler",
    "code",
}
SAMPLER = {"method": "heun", "steps": 4}


def pictures(n: int, seed: int, shift: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (n, 1, 10, 10), dtype=torch.uint8, generator=generator) + shift


def write_extractors(path: Path, seed: int = 0, dataset: str = "noise") -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = [Extractor((1, 10, 10), 2).eval() for _ in range(3)]
    extractors.write(path, networks, {"dataset": dataset, "classes": ["a", "b"]})


@dataclass
class Workspace:
    """A folder with a data set, its extractors and its reference, and the stages to run on it."""

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def make_reference(self, pinned: str | None = None, dataset: str = "noise") -> reference.Reference:
        paths = ["--images", str(self.path("images.safetensors")), "--out", str(self.path("reference.safetensors"))]
        paths += ["--extractors", str(self.path("extractors.safetensors"))]
        settings = {"dataset": dataset, "extractors_sha256": pinned}
        reference_stage.main(["--settings", json.dumps(settings), *paths])
        return reference.read(self.path("reference.safetensors"))

    def write_samples(
        self, images: torch.Tensor, status: str = "ok", reason: str = "", labels: Sequence[int] = ()
    ) -> None:
        np.savez_compressed(
            self.path("samples.npz"),
            images=images.numpy(),
            labels=np.array(labels, dtype=np.int64),
            network_evaluations=np.float64(7.0),
            sampler=np.str_(json.dumps(SAMPLER)),
            status=np.str_(status),
            reason=np.str_(reason),
        )

    def score(self, n_samples: int) -> dict[str, Any]:
        paths = ["--samples", str(self.path("samples.npz")), "--out", str(self.path("score.json"))]
        paths += ["--reference", str(self.path("reference.safetensors"))]
        paths += ["--extractors", str(self.path("extractors.safetensors"))]
        score_stage.main(["--settings", json.dumps({"n_samples": n_samples}), "--code", "c0de", *paths])
        record: dict[str, Any] = json.loads(self.path("score.json").read_text())
        return record


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    images = ImageSet(
        train_images=pictures(400, 1),
        train_labels=torch.arange(400) % 2,
        test_images=pictures(200, 2),
        test_labels=torch.arange(200) % 2,
        dataset="noise",
        classes=("a", "b"),
        source="made up",
    )
    store.write(tmp_path / "images.safetensors", images)
    write_extractors(tmp_path / "extractors.safetensors")
    ready = Workspace(tmp_path)
    ready.make_reference()
    return ready


def test_a_score_is_what_its_parts_say(workspace: Workspace) -> None:
    samples = pictures(100, 3, shift=30)
    workspace.write_samples(samples)
    record = workspace.score(100)
    assert set(record) == KEYS
    assert (record["status"], record["reason"], record["code"]) == ("ok", "", "c0de")
    assert (record["n_samples"], record["reference_n"], record["fid_floor_n"]) == (100, 400, 100)
    assert (record["sampler"], record["network_evaluations"]) == (SAMPLER, 7.0)
    assert record["extractors_sha256"] == files.digest(workspace.path("extractors.safetensors"))

    data = store.read(workspace.path("images.safetensors"))
    fids, rfids = [], []
    for extractor in extractors.read(workspace.path("extractors.safetensors")):
        real, fake = (np.asarray(features(extractor, x)) for x in (data.train_images, samples))
        fids.append(frechet_distance(statistics(torch.tensor(real)), statistics(torch.tensor(fake))))
        rfids.append(100 * fids[-1] / np.var(real, axis=0, ddof=1).sum())
    assert record["fid_extractors"] == pytest.approx(fids)
    assert record["fid"] == pytest.approx(np.mean(fids))
    assert record["rfid"] == pytest.approx(np.mean(rfids))
    assert record["fid"] > record["fid_floor"] > 0
    assert record["rfid"] > record["rfid_floor"] > 0


def test_the_training_images_score_zero(workspace: Workspace) -> None:
    data = store.read(workspace.path("images.safetensors"))
    workspace.write_samples(data.train_images)
    assert workspace.score(400)["rfid"] < 1e-5


def test_the_test_images_score_their_floor(workspace: Workspace) -> None:
    data = store.read(workspace.path("images.safetensors"))
    workspace.write_samples(data.test_images)
    record = workspace.score(200)
    assert record["fid"] == pytest.approx(record["fid_floor"], rel=1e-5)
    assert record["rfid"] == pytest.approx(record["rfid_floor"], rel=1e-5)
    assert record["fid_floor_n"] == 200


def test_the_floor_is_the_mean_over_disjoint_draws(workspace: Workspace) -> None:
    known = reference.read(workspace.path("reference.safetensors"))
    blocks = known.test_features.double().split(70, dim=1)
    draws = [reference.distance(known, list(block.unbind())) for block in blocks[:2]]
    found = reference.floor(known, 70)
    assert found is not None
    assert found.fid == pytest.approx((draws[0].fid + draws[1].fid) / 2)
    assert found.rfid == pytest.approx((draws[0].rfid + draws[1].rfid) / 2)
    assert found.n == 70


def test_a_floor_of_fewer_test_images_than_samples_is_that_of_all(workspace: Workspace) -> None:
    known = reference.read(workspace.path("reference.safetensors"))
    assert reference.floor(known, 5000) == reference.floor(known, 200)
    few = reference.Reference(**{**known.__dict__, "test_features": known.test_features[:, :63]})
    assert reference.floor(few, 100) is None


def test_fewer_images_lie_higher(workspace: Workspace) -> None:
    """The bias that makes n part of every comparison."""
    known = reference.read(workspace.path("reference.safetensors"))
    small, large = reference.floor(known, 66), reference.floor(known, 200)
    assert small is not None
    assert large is not None
    assert small.fid > large.fid


def test_the_order_of_samples_does_not_matter(workspace: Workspace) -> None:
    samples = pictures(300, 3, shift=20)
    workspace.write_samples(samples)
    first = workspace.score(300)
    workspace.write_samples(samples[torch.randperm(300, generator=torch.Generator().manual_seed(0))])
    second = workspace.score(300)
    assert second["rfid"] == pytest.approx(first["rfid"], abs=1e-6)  # percent of the variance: 1e-8 of it
    assert second["fid"] == pytest.approx(first["fid"], rel=1e-6)


def test_the_same_inputs_give_the_same_files(workspace: Workspace) -> None:
    workspace.write_samples(pictures(100, 3))
    first = workspace.score(100), files.digest(workspace.path("reference.safetensors"))
    workspace.make_reference()
    assert (workspace.score(100), files.digest(workspace.path("reference.safetensors"))) == first


def test_a_failure_is_passed_along(workspace: Workspace) -> None:
    workspace.write_samples(pictures(0, 3), status="failed", reason="loss is NaN at step 12")
    record = workspace.score(100)
    assert set(record) == KEYS
    assert (record["status"], record["reason"]) == ("failed", "loss is NaN at step 12")
    assert record["fid"] is record["rfid"] is record["fid_floor"] is record["fid_extractors"] is None
    assert record["sampler"] == SAMPLER


def test_class_accuracy_is_what_the_classifiers_take_samples_for(workspace: Workspace) -> None:
    samples = pictures(100, 3)
    networks = extractors.read(workspace.path("extractors.safetensors"))
    with torch.inference_mode():
        guesses = [network.logits(samples).argmax(1) for network in networks]
    for labels in (guesses[0], 1 - guesses[0], torch.arange(100) % 2):
        workspace.write_samples(samples, labels=labels.tolist())
        expected = np.mean([float((guess == labels).double().mean()) for guess in guesses])
        assert workspace.score(100)["class_accuracy"] == pytest.approx(expected)


def test_samples_of_no_class_have_no_class_accuracy(workspace: Workspace) -> None:
    workspace.write_samples(pictures(100, 3))
    assert workspace.score(100)["class_accuracy"] is None
    workspace.write_samples(pictures(0, 3), status="failed", reason="loss is NaN at step 12")
    assert workspace.score(100)["class_accuracy"] is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def object_array(path: Path) -> None:
    np.savez(
        path,
        images=np.array([{}], dtype=object),
        status="ok",
        reason="",
        sampler="{}",
        network_evaluations=1.0,
        labels=[],
    )


def without_images(path: Path) -> None:
    np.savez(path, status="ok", reason="", sampler="{}", network_evaluations=1.0, labels=[])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("samples.npz", truncate),
        ("samples.npz", object_array),
        ("samples.npz", without_images),
        ("samples.npz", Path.unlink),
        ("reference.safetensors", truncate),
        ("reference.safetensors", Path.unlink),
    ],
)
def test_a_damaged_file_is_named(workspace: Workspace, name: str, damage: Callable[[Path], None]) -> None:
    workspace.write_samples(pictures(100, 3))
    damage(workspace.path(name))
    with pytest.raises(UserError, match=rf"{name} (is|does not)") as caught:
        workspace.score(100)
    assert "\n" not in str(caught.value)
    assert not workspace.path("score.json").exists()


def test_a_reference_of_other_extractors_is_stale(workspace: Workspace) -> None:
    workspace.write_samples(pictures(100, 3))
    write_extractors(workspace.path("extractors.safetensors"), seed=1)
    with pytest.raises(UserError, match=r"reference\.safetensors was made with other extractors .*run again"):
        workspace.score(100)


def test_a_wrong_number_of_samples_is_refused(workspace: Workspace) -> None:
    workspace.write_samples(pictures(99, 3))
    with pytest.raises(UserError, match=r"there are 99 samples, sampling\.n_samples is 100"):
        workspace.score(100)


def test_fewer_samples_than_features_are_refused(workspace: Workspace) -> None:
    workspace.write_samples(pictures(63, 3))
    with pytest.raises(UserError, match=r"63 images are too few .* 64 features: raise sampling\.n_samples"):
        workspace.score(63)


def test_samples_of_another_size_are_refused(workspace: Workspace) -> None:
    workspace.write_samples(torch.zeros(100, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"images are 1×28×28 .* take 1×10×10"):
        workspace.score(100)


def test_a_reference_checks_what_it_is_made_from(workspace: Workspace) -> None:
    digest = files.digest(workspace.path("extractors.safetensors"))
    assert workspace.make_reference(pinned=digest).extractors_sha256 == digest
    with pytest.raises(UserError, match=rf"SHA-256 {digest}, pinned is 00ff: restore the file"):
        workspace.make_reference(pinned="00ff")
    with pytest.raises(UserError, match=r"is for data set 'noise', not 'mnist': correct datasets\.mnist\.extractors"):
        workspace.make_reference(dataset="mnist")


def test_a_reference_needs_more_images_than_features(workspace: Workspace) -> None:
    networks = extractors.read(workspace.path("extractors.safetensors"))
    with pytest.raises(UserError, match=r"data set 'tiny' has 63 training images; its reference needs 64 or more"):
        reference.measure(pictures(63, 1), pictures(20, 2), networks, "tiny", "00", torch.device("cpu"))
    found = reference.measure(pictures(64, 1), pictures(20, 2), networks, "tiny", "00", torch.device("cpu"))
    assert reference.floor(found, 64) is None


def test_extractors_are_trained_by_their_stage(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("slimdiff.metrics.extractor_training.MIN_STEPS", 3)
    settings = {"dataset": "noise", "seeds": [0, 5], "epochs": 1, "batch_size": 200, "learning_rate": 1e-3}
    paths = ["--images", str(workspace.path("images.safetensors")), "--out", str(workspace.path("new.safetensors"))]
    extractors_stage.main(["--settings", json.dumps(settings), *paths])
    assert "seed 5: epoch 2/2" in capsys.readouterr().out
    header = extractors.read_header(workspace.path("new.safetensors"))
    assert (header["dataset"], header["classes"], header["seeds"]) == ("noise", ["a", "b"], [0, 5])
    assert len(extractors.read(workspace.path("new.safetensors"))) == 2
    with pytest.raises(UserError, match="unknown key 'epoch'; allowed: batch_size"):
        extractors_stage.main(["--settings", json.dumps(settings | {"epoch": 1}), *paths])
