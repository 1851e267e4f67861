"""From images to score.json through the stages, and every mismatch of inputs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import resize, rgb_to_grayscale

from slimdiff.analysis import row
from slimdiff.analysis.columns import COLUMNS
from slimdiff.catalog import limits
from slimdiff.data import checks, image_set
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError
from slimdiff.io import files, records
from slimdiff.io.samples import Samples, write_samples
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.metrics import reference
from slimdiff.metrics import score as score_module
from slimdiff.metrics.frechet import factor, frechet_distance, statistics
from slimdiff.metrics.kid import kernel_distance
from slimdiff.metrics.memorization import copy_share, memorization, nearest_distances, two_nearest_distances
from slimdiff.metrics.networks import classifier, extractors, inception
from slimdiff.metrics.networks.classifier import Classifier
from slimdiff.metrics.networks.extractors import Extractor, features
from slimdiff.metrics.networks.inception import InceptionReference
from slimdiff.metrics.prdc import compute_prdc
from slimdiff.stages import extractors as extractors_stage
from slimdiff.stages import reference as reference_stage
from slimdiff.stages import score as score_stage

KEYS = {
    *score_module.MEASURES,
    *("identity", "status", "reason", "n_samples", "reference_n", "network_evaluations", "sampler", "code"),
    "test_images_in_training",
    *(
        "extractors_sha256",
        "foreign_extractors_sha256",
        "classifier_sha256",
        "inception_sha256",
        "sampling_batch_size",
        "score_batch_size",
    ),
}
# Measures that score.json alone holds.
NOT_IN_THE_MATRIX = {"fid_indomain_extractors", "fid_indomain_floor_n", "few_samples", "manifold_n"}
SAMPLER = {"method": "heun", "steps": 4}


def test_every_measure_is_a_column_of_the_matrix_or_listed() -> None:
    """`row` drops a key without a column."""
    columns = {column.name for column in COLUMNS if column.source == "score"}
    assert set(score_module.MEASURES) - columns == NOT_IN_THE_MATRIX


def pictures(n: int, seed: int, shift: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (n, 1, 10, 10), dtype=torch.uint8, generator=generator) + shift


def labelled(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return pictures(n, seed), torch.arange(n) % 2


def write_extractors(
    path: Path, seed: int = 0, dataset: str = "noise", shape: tuple[int, int, int] = (1, 10, 10)
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = [Extractor(shape, 2).eval() for _ in range(3)]
    extractors.write(path, networks, {"dataset": dataset, "classes": ["a", "b"]})


def write_classifier(path: Path, seed: int = 7, dataset: str = "noise", classes: tuple[str, ...] = ("a", "b")) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Classifier((1, 10, 10), len(classes)).eval()
    classifier.write(path, network, {"dataset": dataset, "classes": list(classes)})


@dataclass
class Workspace:
    """A folder with a data set, its networks and its reference, and the stages to run on it."""

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def make_foreign(self, pinned: str | None = None) -> reference.Reference:
        paths = ["--images", str(self.path("images.safetensors")), "--out", str(self.path("foreign.safetensors"))]
        paths += ["--extractors", str(self.path("foreign_extractors.safetensors"))]
        settings = {"dataset": "noise", "extractors_sha256": pinned, "foreign": True}
        reference_stage.main(["--settings", json.dumps(settings), *paths])
        return reference.read(self.path("foreign.safetensors"))

    def make_reference(self, pinned: str | None = None, dataset: str = "noise") -> reference.Reference:
        paths = ["--images", str(self.path("images.safetensors")), "--out", str(self.path("reference.safetensors"))]
        paths += ["--extractors", str(self.path("extractors.safetensors"))]
        settings = {"dataset": dataset, "extractors_sha256": pinned}
        reference_stage.main(["--settings", json.dumps(settings), *paths])
        return reference.read(self.path("reference.safetensors"))

    def write_samples(
        self,
        images: torch.Tensor,
        status: str = "ok",
        reason: str = "",
        labels: Sequence[int] = (),
        name: str = "samples.npz",
    ) -> None:
        samples = Samples(images.numpy(), np.array(labels, dtype=np.int64), (), SAMPLER, 7.0, status, reason)
        write_samples(self.path(name), samples)

    def score(self, n_samples: int, inception: Sequence[str] = (), baseline: str = "") -> dict[str, Any]:
        paths = ["--samples", str(self.path("samples.npz")), "--out", str(self.path("score.json"))]
        for name in ("images", "reference", "extractors", "classifier"):
            paths += [f"--{name}", str(self.path(f"{name}.safetensors"))]
        if self.path("foreign.safetensors").exists():
            names = {"foreign": "foreign", "foreign-extractors": "foreign_extractors"}
            for option, name in names.items():
                paths += [f"--{option}", str(self.path(f"{name}.safetensors"))]
        paths += ["--baseline", str(self.path(baseline))] if baseline else []
        paths += ["--inception", *(str(self.path(name)) for name in inception)]
        score_stage.main(["--settings", json.dumps({"n_samples": n_samples}), "--code", "c0de", *paths])
        return records.read_json(self.path("score.json"))


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
    image_set.write(tmp_path / "images.safetensors", images)
    write_extractors(tmp_path / "extractors.safetensors")
    write_classifier(tmp_path / "classifier.safetensors")
    ready = Workspace(tmp_path)
    ready.make_reference()
    return ready


def test_a_score_equals_its_parts(workspace: Workspace) -> None:
    samples, labels = pictures(100, 3, shift=30), torch.arange(100) % 2
    workspace.write_samples(samples, labels=labels.tolist())
    record = workspace.score(100)
    assert set(record) == KEYS
    assert (record["status"], record["reason"], record["code"]) == ("ok", "", "c0de")
    assert (record["n_samples"], record["reference_n"], record["fid_indomain_floor_n"]) == (100, 400, 100)
    assert (record["sampler"], record["network_evaluations"]) == (SAMPLER, 7.0)
    assert record["extractors_sha256"] == files.digest(workspace.path("extractors.safetensors"))
    assert record["classifier_sha256"] == files.digest(workspace.path("classifier.safetensors"))
    assert record["inception_sha256"] == {}
    assert record["fid_inception"] is record["fid_paper"] is None

    data = image_set.read(workspace.path("images.safetensors"))
    fids, percents = [], []
    for extractor in extractors.read(workspace.path("extractors.safetensors")):
        real, fake = (np.asarray(features(extractor, x)) for x in (data.train_images, samples))
        fids.append(frechet_distance(statistics(torch.tensor(real)), statistics(torch.tensor(fake))))
        percents.append(100 * fids[-1] / np.var(real, axis=0, ddof=1).sum())
    assert record["fid_indomain_extractors"] == pytest.approx(fids, rel=1e-5)  # rounded values with little variation
    assert record["fid_indomain"] == pytest.approx(np.mean(fids), rel=1e-5)
    assert (record["fid_indomain_min"], record["fid_indomain_max"]) == pytest.approx((min(fids), max(fids)), rel=1e-5)
    assert record["fid_indomain_pct"] == pytest.approx(np.mean(percents), rel=1e-5)
    assert record["fid_indomain"] > record["fid_indomain_floor"] > 0
    assert record["fid_indomain_pct"] > record["fid_indomain_floor_pct"] > 0

    assert record["copy_share"] == copy_share(*two_nearest_distances(samples, data.train_images))
    nearest = [nearest_distances(x, data.train_images) for x in (samples, data.test_images)]
    copied = memorization(*nearest)
    assert copied is not None
    assert (record["memorization_p"], record["nearest_ratio"]) == pytest.approx((copied.p, copied.ratio), rel=1e-12)
    shares = classifier.shares(data.train_labels, 2)
    classes_shown = classifier.classify_samples(
        classifier.read(workspace.path("classifier.safetensors")), samples, labels, shares
    )
    assert {name: record[name] for name in classes_shown} == classes_shown


def test_foreign_features_are_those_of_fitted_images(workspace: Workspace) -> None:
    """Of the size and channels that the other data set's extractors take; null without these."""
    samples = pictures(100, 3, shift=30)
    workspace.write_samples(samples)
    alone = workspace.score(100)
    assert (alone["fid_foreign"], alone["foreign_extractors_sha256"]) == (None, None)

    path = workspace.path("foreign_extractors.safetensors")
    write_extractors(path, seed=5, dataset="colourful", shape=(3, 14, 12))
    assert len(workspace.make_foreign().test_labels) == 0
    record = workspace.score(100)
    data = image_set.read(workspace.path("images.safetensors"))
    fids = []
    for extractor in extractors.read(path):
        real, fake = (
            features(extractor, resize(x, [14, 12], antialias=True).expand(-1, 3, -1, -1))
            for x in (data.train_images, samples)
        )
        fids.append(frechet_distance(statistics(real), statistics(fake)))
    assert record["fid_foreign"] == pytest.approx(np.mean(fids), rel=1e-3)
    assert record["foreign_extractors_sha256"] == files.digest(path)
    same = set(record) - {"fid_foreign", "foreign_extractors_sha256"}
    assert {key: record[key] for key in same} == {key: alone[key] for key in same}


@pytest.mark.parametrize("labels", [[0, 1] * 50, [0] * 70 + [1] * 30])
def test_foreign_statistics_have_the_composition_of_the_samples(workspace: Workspace, labels: list[int]) -> None:
    """With the data set's own extractors under another name, the distance is the in-domain one."""
    workspace.write_samples(pictures(100, 3, shift=30), labels=labels)
    write_extractors(workspace.path("foreign_extractors.safetensors"), dataset="other")
    workspace.make_foreign()
    record = workspace.score(100)
    assert record["fid_foreign"] == record["fid_indomain"]


def test_colour_becomes_luma_and_other_sizes_are_scaled() -> None:
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (5, 3, 9, 12), dtype=torch.uint8, generator=generator)
    assert extractors.fitted(colours, (3, 9, 12)) is colours
    gray, ours = rgb_to_grayscale(colours.float()), extractors.fitted(colours, (1, 9, 12)).float()
    assert float((ours - gray).abs().max()) <= 0.6, "torchvision rounds the weights to four digits"
    assert extractors.fitted(colours[:, :1], (3, 9, 12)).unbind(1)[2].equal(colours[:, 0])
    small = extractors.fitted(colours, (3, 4, 6)).float()
    assert float((small - resize(colours.float(), [4, 6], antialias=True)).abs().max()) <= 0.5


def test_foreign_extractors_are_not_the_data_sets_own_nor_changed(workspace: Workspace) -> None:
    path = workspace.path("foreign_extractors.safetensors")
    write_extractors(path, dataset="noise")
    with pytest.raises(UserError, match=r"datasets\.noise\.foreign_extractors"):
        workspace.make_foreign()
    write_extractors(path, dataset="other")
    with pytest.raises(UserError, match=r"datasets\.noise\.foreign_extractors"):
        workspace.make_foreign(pinned="0" * 64)
    workspace.make_foreign(pinned=files.digest(path))
    write_extractors(path, seed=6, dataset="other")
    workspace.write_samples(pictures(100, 3))
    with pytest.raises(UserError, match=r"foreign\.safetensors was made with other extractors"):
        workspace.score(100)


def test_samples_are_compared_with_the_baselines_one_by_one(workspace: Workspace) -> None:
    """In their order in the files, which nothing else depends on; null without a baseline, or if it failed."""
    samples, baseline = pictures(100, 3, shift=30), pictures(100, 3, shift=20)
    workspace.write_samples(samples)
    workspace.write_samples(baseline, name="baseline.npz")
    alone, record = workspace.score(100), workspace.score(100, baseline="baseline.npz")
    assert (alone["psnr"], alone["ssim"]) == (None, None)
    assert record == alone | {"psnr": pytest.approx(20 * np.log10(25.5)), "ssim": None}, "10 pixels are no window"

    workspace.write_samples(baseline.flip(0), name="baseline.npz")
    assert workspace.score(100, baseline="baseline.npz")["psnr"] < 15
    workspace.write_samples(baseline, "failed", "samples hold NaN", name="baseline.npz")
    assert workspace.score(100, baseline="baseline.npz") == alone


@pytest.mark.parametrize(("n", "labels"), [(99, ()), (100, [0, 1] * 50), (100, [1, 0] * 50)])
def test_a_baseline_of_other_images_is_refused(workspace: Workspace, n: int, labels: Sequence[int]) -> None:
    workspace.write_samples(pictures(100, 3), labels=[0, 1] * 50 if labels == [1, 0] * 50 else ())
    workspace.write_samples(pictures(n, 3), labels=labels, name="baseline.npz")
    with pytest.raises(UserError, match="baseline's"):
        workspace.score(100, baseline="baseline.npz")


def test_neighbourhoods_are_of_a_random_draw_of_training_images(workspace: Workspace) -> None:
    """One random draw of training images, as many as samples; the mean over the extractors."""
    data, samples = image_set.read(workspace.path("images.safetensors")), pictures(100, 3, shift=10)
    workspace.write_samples(samples)
    record = workspace.score(100)
    drawn = torch.randperm(400, generator=torch.Generator().manual_seed(reference.DRAW_SEED))[:100]
    kids, results = [], []
    for extractor in extractors.read(workspace.path("extractors.safetensors")):
        size = reference.scale(statistics(features(extractor, data.train_images)))
        ours, theirs = (reference.on_grid(features(extractor, x), size) for x in (data.train_images[drawn], samples))
        kids.append(kernel_distance(ours, theirs))
        results.append(compute_prdc(ours, theirs))
    assert record["kid"] == pytest.approx(np.mean(kids), rel=1e-9)
    for name in ("precision", "recall", "density", "coverage"):
        assert record[name] == pytest.approx(np.mean([getattr(result, name) for result in results]), rel=1e-12)
    assert record["manifold_n"] == 100


@pytest.mark.parametrize(("place", "name"), [(Extractor, "features"), (Classifier, "forward")])
def test_half_the_batch_gives_the_same_score_after_running_out_of_memory(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, place: type, name: str
) -> None:
    """If half is too much as well, the cell fails at this stage with a reason."""
    workspace.write_samples(pictures(100, 3, shift=10))
    whole = workspace.score(100)
    run = getattr(place, name)

    def starve(bears: int) -> None:
        def limited(self: Any, images: torch.Tensor) -> Any:
            if len(images) > bears:
                torch.empty(2**50, dtype=torch.uint8)  # more memory than any machine has
            return run(self, images)

        monkeypatch.setattr(place, name, limited)

    starve(32)
    halved = workspace.score(100)
    assert (whole.pop("score_batch_size"), halved.pop("score_batch_size")) == (64, 32)
    assert halved == whole
    starve(31)
    failed = workspace.score(100)
    assert (failed["status"], failed["fid_indomain"], failed["score_batch_size"]) == ("failed", None, None)
    found = row.first_failure({"train": {"status": "ok"}, "score": failed, "profile": {"status": "ok"}})
    assert found is not None
    assert found.startswith("score: out of memory with 64 images at once (tried 64 and 32): ")


def test_few_samples_are_flagged(workspace: Workspace) -> None:
    for n, few in ((639, True), (640, False)):
        workspace.write_samples(pictures(n, 3))
        record = workspace.score(n)
        assert record["few_samples"] is few
        assert record["manifold_n"] == 400, "limited by the number of training images"


@pytest.mark.parametrize(
    ("n", "labels", "floor_n", "note"),
    [
        (100, [0, 1] * 50, 100, ""),
        (300, [0, 1] * 150, 200, "200, fewer"),
        (300, [0] * 150 + [1] * 150, 200, "200, fewer"),
    ],
)
def test_too_few_test_images_for_the_floor_are_noted(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], n: int, labels: list[int], floor_n: int, note: str
) -> None:
    workspace.write_samples(pictures(n, 3), labels=labels)
    assert workspace.score(n)["fid_indomain_floor_n"] == floor_n
    assert (f"classes: {note}" in capsys.readouterr().out) == bool(note)


@pytest.mark.parametrize(("n_rare", "known"), [(1, False), (2, True)])
def test_a_class_of_one_sample_leaves_no_kid(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], n_rare: int, known: bool
) -> None:
    workspace.write_samples(pictures(100, 3), labels=[0] * (100 - n_rare) + [1] * n_rare)
    record = workspace.score(100)
    assert (record["kid"] is not None) is known
    assert record["coverage"] is not None
    assert ("note: no kid" in capsys.readouterr().out) is not known


def test_every_metric_of_the_matrix_is_in_the_record() -> None:
    assert {column.name for column in COLUMNS if column.source == "score"} <= KEYS


def test_the_training_images_score_zero(workspace: Workspace) -> None:
    data = image_set.read(workspace.path("images.safetensors"))
    workspace.write_samples(data.train_images)
    assert workspace.score(400)["fid_indomain_pct"] < 1e-5


def test_the_test_images_score_the_floor(workspace: Workspace) -> None:
    data = image_set.read(workspace.path("images.safetensors"))
    workspace.write_samples(data.test_images, labels=data.test_labels.tolist())
    record = workspace.score(200)
    assert record["fid_indomain"] == pytest.approx(record["fid_indomain_floor"], rel=1e-5)
    assert record["fid_indomain_pct"] == pytest.approx(record["fid_indomain_floor_pct"], rel=1e-5)
    assert record["fid_indomain_floor_n"] == 200


def test_the_floor_is_the_mean_over_disjoint_draws(workspace: Workspace) -> None:
    known = reference.read(workspace.path("reference.safetensors"))
    blocks = known.test_features.double().split(70, dim=1)
    draws = [reference.distance(known, list(block.unbind())) for block in blocks[:2]]
    found = reference.floor(known, 70)
    assert found is not None
    assert found.fid_indomain == pytest.approx((draws[0].fid_indomain + draws[1].fid_indomain) / 2)
    assert found.fid_indomain_pct == pytest.approx((draws[0].fid_indomain_pct + draws[1].fid_indomain_pct) / 2)
    assert found.n == 70


def test_the_floor_uses_all_test_images_if_there_are_fewer_than_samples(workspace: Workspace) -> None:
    known = reference.read(workspace.path("reference.safetensors"))
    assert reference.floor(known, 5000) == reference.floor(known, 200)
    few = reference.Reference(**{**known.__dict__, "test_features": known.test_features[:, :63]})
    assert reference.floor(few, 100) is None


def test_fewer_images_have_a_larger_distance(workspace: Workspace) -> None:
    """This bias is why only cells of equal n_samples compare."""
    known = reference.read(workspace.path("reference.safetensors"))
    small, large = reference.floor(known, 66), reference.floor(known, 200)
    assert small is not None
    assert large is not None
    assert small.fid_indomain > large.fid_indomain


def test_the_order_of_samples_does_not_matter(workspace: Workspace) -> None:
    samples = pictures(300, 3, shift=20)
    workspace.write_samples(samples)
    first = workspace.score(300)
    workspace.write_samples(samples[torch.randperm(300, generator=torch.Generator().manual_seed(0))])
    assert workspace.score(300) == first


def test_the_order_of_samples_is_random_and_depends_on_them_alone() -> None:
    images = pictures(400, 3)
    images[200:] = images[:200]
    none = torch.zeros(0, dtype=torch.int64)
    order = score_module.canonical_order(images, none)
    assert sorted(order.tolist()) == list(range(400))
    shuffled = images[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(shuffled[score_module.canonical_order(shuffled, none)], images[order])
    assert len(set((order[:100] % 200).tolist())) > 80, "equal images are not adjacent"


def test_the_same_inputs_give_the_same_files(workspace: Workspace) -> None:
    workspace.write_samples(pictures(100, 3))
    first = workspace.score(100), files.digest(workspace.path("reference.safetensors"))
    workspace.make_reference()
    assert (workspace.score(100), files.digest(workspace.path("reference.safetensors"))) == first


def test_copies_across_the_split_are_in_the_record(workspace: Workspace) -> None:
    workspace.write_samples(pictures(100, 3))
    assert workspace.score(100)["test_images_in_training"] is None, "files of older versions have no report"
    data = image_set.read(workspace.path("images.safetensors"))
    test = torch.cat([data.test_images[:150], data.train_images[:50]])
    image_set.write(workspace.path("images.safetensors"), *checks.examine(replace(data, test_images=test), "keep"))
    workspace.make_reference()
    assert workspace.score(100)["test_images_in_training"] == 50


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_training_images_that_look_alike_have_no_reference(workspace: Workspace, noise: float) -> None:
    """Percent of a variance of 0 would be any number."""
    real = reference.read(workspace.path("reference.safetensors"))
    covariance = noise**2 * torch.eye(real.mean.shape[1], dtype=torch.float64).expand_as(real.covariance)
    with pytest.raises(UserError, match=r"data set 'noise' have no variance .* extractor 0.*datasets\.noise"):
        replace(real, mean=torch.ones_like(real.mean), covariance=covariance)
    image = pictures(1, 1).expand(400, -1, -1, -1).contiguous()
    labels = torch.arange(400) % 2
    networks = extractors.read(workspace.path("extractors.safetensors"))
    with pytest.raises(UserError, match="no variance"):
        reference.measure((image, labels), (image, labels), networks, "noise", "e", "i", torch.device("cpu"))


def test_a_failure_is_passed_on(workspace: Workspace) -> None:
    workspace.write_samples(pictures(0, 3), status="failed", reason="loss is NaN at step 12")
    record = workspace.score(100)
    assert set(record) == KEYS
    assert (record["status"], record["reason"]) == ("failed", "loss is NaN at step 12")
    assert {record[name] for name in score_module.MEASURES} == {None}
    assert record["classifier_sha256"] == files.digest(workspace.path("classifier.safetensors"))
    assert record["sampler"] == SAMPLER


def test_class_accuracy_is_the_fraction_of_recognized_labels(workspace: Workspace) -> None:
    """For any common order of samples and labels."""
    samples = pictures(100, 3)
    guesses = classifier.probabilities(classifier.read(workspace.path("classifier.safetensors")), samples).argmax(1)
    for labels, expected in ((guesses, 1.0), (1 - guesses, 0.0), (torch.where(torch.arange(100) < 30, 1, 0), None)):
        workspace.write_samples(samples, labels=labels.tolist())
        share = float((guesses == labels).double().mean()) if expected is None else expected
        assert workspace.score(100)["class_accuracy"] == pytest.approx(share)


def test_unlabelled_samples_have_no_class_accuracy(workspace: Workspace) -> None:
    """Their classes are compared with those of the training images, here half a and half b."""
    samples = pictures(100, 3)
    workspace.write_samples(samples)
    record = workspace.score(100)
    assert record["class_accuracy"] is None
    guesses = classifier.probabilities(classifier.read(workspace.path("classifier.safetensors")), samples).argmax(1)
    assert record["class_tv"] == pytest.approx(abs(guesses.double().mean().item() - 0.5))
    workspace.write_samples(pictures(0, 3), status="failed", reason="loss is NaN at step 12")
    assert workspace.score(100)["class_accuracy"] is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("samples.npz", truncate),
        ("samples.npz", Path.unlink),
        ("reference.safetensors", truncate),
        ("reference.safetensors", Path.unlink),
        ("classifier.safetensors", truncate),
        ("images.safetensors", truncate),
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


def test_a_reference_of_other_images_is_stale(workspace: Workspace) -> None:
    workspace.write_samples(pictures(100, 3))
    data = image_set.read(workspace.path("images.safetensors"))
    image_set.write(workspace.path("images.safetensors"), replace(data, train_images=255 - data.train_images))
    with pytest.raises(UserError, match=r"reference\.safetensors was made from other images .*run again"):
        workspace.score(100)


def test_a_reference_of_an_older_slimdiff_is_refused(workspace: Workspace) -> None:
    path = workspace.path("reference.safetensors")
    tensors, header = load_tensors(path, reference.KIND)
    del tensors["train_features"]
    save_tensors(path, reference.KIND, tensors, header)
    with pytest.raises(UserError, match=r"lacks train_features: delete it and run again"):
        reference.read(path)


def test_a_classifier_of_another_data_set_is_refused(workspace: Workspace) -> None:
    workspace.write_samples(pictures(100, 3))
    write_classifier(workspace.path("classifier.safetensors"), dataset="other")
    with pytest.raises(
        UserError, match=r"datasets\.noise\.classifier is .*classifier\.safetensors', for data set 'other'"
    ):
        workspace.score(100)


def inception_of(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, dataset: str = "noise") -> str:
    """Write the reference of an Inception whose features are the mean pixel times given weights; return its name."""

    class Little(torch.nn.Module):
        def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(tensors["weight"])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().flatten(1)[:, :16] @ self.weight

        def tensors(self) -> dict[str, torch.Tensor]:
            return {"weight": self.weight.data}

    monkeypatch.setattr(inception, "FEATURES", 16)
    monkeypatch.setattr(limits, "INCEPTION_FEATURES", 16)
    monkeypatch.setitem(inception.NETWORKS, kind, Little)
    network = inception.build(kind, {"weight": torch.eye(16) * (1 + len(kind))})
    known = statistics(inception.features(network, pictures(400, 1)))
    found = InceptionReference(
        kind=kind,
        network=network,
        mean=known.mean[None],
        covariance=known.covariance[None],
        factor=factor(known.covariance)[None],
        class_counts=torch.tensor([200, 200]),
        n=400,
        dataset=dataset,
        weights_sha256=f"sha-of-{kind}",
    )
    inception.write(folder / f"{kind}.safetensors", found)
    return f"{kind}.safetensors"


def test_inception_distances_have_their_own_columns(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [inception_of(monkeypatch, workspace.folder, kind) for kind in ("paper", "standard")]
    workspace.write_samples(pictures(100, 3, shift=20))
    without, one, both = workspace.score(100), workspace.score(100, names[:1]), workspace.score(100, names)
    assert one["fid_paper"] > 0
    assert one["fid_inception"] is None
    assert one["inception_sha256"] == {"paper": "sha-of-paper"}
    assert both["fid_paper"] == one["fid_paper"]
    assert both["fid_inception"] == pytest.approx(one["fid_paper"] * (9 / 6) ** 2, rel=1e-3)
    assert both["fid_indomain"] == without["fid_indomain"]
    with pytest.raises(UserError, match="--inception names 2 files of kinds paper, paper; allowed: one of each kind"):
        workspace.score(100, [names[0], names[0]])


def test_an_inception_reference_of_another_data_set_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = inception_of(monkeypatch, workspace.folder, "paper", dataset="other")
    workspace.write_samples(pictures(100, 3))
    with pytest.raises(UserError, match=r"paper\.safetensors is for data set 'other', the reference for 'noise'"):
        workspace.score(100, [name])


def test_a_wrong_number_of_samples_is_refused(workspace: Workspace) -> None:
    workspace.write_samples(pictures(99, 3))
    with pytest.raises(UserError, match=r"there are 99 samples, sampling\.n_samples is 100"):
        workspace.score(100)


def test_labels_of_another_count_are_refused(workspace: Workspace) -> None:
    workspace.write_samples(pictures(100, 3), labels=[0] * 99)
    with pytest.raises(UserError, match="99 labels for 100 images"):
        workspace.score(100)


def test_fewer_samples_than_features_are_refused(workspace: Workspace) -> None:
    workspace.write_samples(pictures(63, 3))
    with pytest.raises(UserError, match=r"63 images are too few .* 64 features: raise sampling\.n_samples"):
        workspace.score(63)


def test_samples_of_another_size_are_refused(workspace: Workspace) -> None:
    workspace.write_samples(torch.zeros(100, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"images are 1×28×28 .* takes 1×10×10"):
        workspace.score(100)


def test_a_reference_checks_its_inputs(workspace: Workspace) -> None:
    digest = files.digest(workspace.path("extractors.safetensors"))
    assert workspace.make_reference(pinned=digest).extractors_sha256 == digest
    with pytest.raises(UserError, match=rf"SHA-256 {digest}, expected 00ff: restore the file"):
        workspace.make_reference(pinned="00ff")
    with pytest.raises(UserError, match=r"datasets\.mnist\.extractors is .*, for data set 'noise', not 'mnist'"):
        workspace.make_reference(dataset="mnist")


def test_a_reference_needs_more_images_than_features(workspace: Workspace) -> None:
    networks = extractors.read(workspace.path("extractors.safetensors"))
    with pytest.raises(UserError, match=r"datasets\.tiny has 63 training images; allowed: 64 or more"):
        reference.measure(labelled(63, 1), labelled(20, 2), networks, "tiny", "00", "00", torch.device("cpu"))
    found = reference.measure(labelled(64, 1), labelled(20, 2), networks, "tiny", "00", "00", torch.device("cpu"))
    assert reference.floor(found, 64) is None


def test_extractors_are_trained_by_their_stage(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("slimdiff.metrics.networks.fit.MIN_STEPS", 3)
    settings = {"dataset": "noise", "seeds": [0, 5], "epochs": 1, "batch_size": 200, "learning_rate": 1e-3}
    paths = ["--images", str(workspace.path("images.safetensors")), "--out", str(workspace.path("new.safetensors"))]
    extractors_stage.main(["--settings", json.dumps(settings), *paths])
    assert "seed 5: epoch 2/2" in capsys.readouterr().out
    header = extractors.read_header(workspace.path("new.safetensors"))
    assert (header["dataset"], header["classes"], header["seeds"]) == ("noise", ["a", "b"], [0, 5])
    assert len(extractors.read(workspace.path("new.safetensors"))) == 2
    with pytest.raises(UserError, match="unknown key 'epoch'; allowed: batch_size"):
        extractors_stage.main(["--settings", json.dumps(settings | {"epoch": 1}), *paths])
