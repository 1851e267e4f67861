"""Sizes and counts that a job refuses are refused before any job, in the same words, and nothing else is."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import MODELS, TRAININGS, striped_images
from photos import big, empty, postscript, text, write_photos
from PIL import Image
from presets import CONFIG, ROOT, SCHEMA, merge

from slimdiff.catalog import limits
from slimdiff.catalog.limits import DatasetFacts
from slimdiff.config import space
from slimdiff.config.cells import expand
from slimdiff.config.checks.sizes import facts_of
from slimdiff.config.validate import validate
from slimdiff.data import class_folders, image_headers, image_set
from slimdiff.data.image_reading import Reading
from slimdiff.errors import UserError, refuse
from slimdiff.io.safetensors_header import read_header
from slimdiff.metrics import reference
from slimdiff.metrics.composition import compose
from slimdiff.metrics.networks import extractors, inception
from slimdiff.metrics.networks.classifier import Classifier
from slimdiff.metrics.networks.extractors import Extractor
from slimdiff.metrics.networks.fit import ClassifierSettings, ExtractorSettings, train_network
from slimdiff.stages import reference as reference_stage
from slimdiff.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def check(overlay: dict[str, Any]) -> dict[str, DatasetFacts]:
    """What a dry run does with config.yaml and this overlay."""
    return validate(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})


def refusal(work: Callable[[], Any]) -> str:
    """The message of a refusal, from its key on."""
    with pytest.raises(UserError) as caught:
        work()
    return str(caught.value).removeprefix("my.yaml: ")


def entry(dataset: str, model: str = "ddpm") -> dict[str, Any]:
    return {"dataset": dataset, "model": model, "optimizations": ["baseline"], "seeds": [0]}


def photos(root: Path, model: dict[str, Any] | None = None, n: int = 45, **options: Any) -> dict[str, Any]:
    """An overlay with a data set `mine` of two classes of n images, and a U-Net for it."""
    if not root.exists():
        write_photos(root, n=n)
    source = {"source": "folder", "path": str(root), "image_size": 8, "channels": 1, "test_fraction": 0.25, **options}
    return {
        "datasets": {"mine": source},
        "models": {"ddpm": {"network": {"classes": 2}, **(model or {})}},
        "matrix": [entry("mine")],
    }


def loaded(overlay: dict[str, Any]) -> image_set.ImageSet:
    """The data set `mine` as the stage data makes it."""
    from slimdiff.data import sources

    return sources.load(sources.DataSettings(name="mine", **overlay["datasets"]["mine"]), Path("nowhere"))


# --- images and the network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_size", "size", "fit"), [(64, 32, "pad"), (64, 32, "resize"), (32, 32, "pad"), (33, 32, "pad")]
)
def test_images_are_padded_or_refused(tmp_path: Path, image_size: int, size: int, fit: str) -> None:
    """The trial `large`, and what is just small enough."""
    overlay = photos(tmp_path / "large", {"image_size": size, "fit": fit}, image_size=image_size)
    images = loaded(overlay)
    model = {**MODELS["ddpm"](image_size=size, patch=2), "fit": fit}
    settings = {"dataset": "mine", "model": model, "training": TRAININGS["ddpm"](epochs=1), "seed": 0}

    def job() -> None:
        train(images, settings, tmp_path / "state", CPU, "code")

    if fit == "pad" and image_size > size:
        said = refusal(lambda: check(overlay))
        assert said == refusal(job).replace("models.*", "models.ddpm")
        assert said.startswith(f"models.ddpm.fit is pad, which cannot shrink the {image_size}×{image_size} images")
        assert said.endswith(f"image_size of {-(-image_size // 16) * 16} or more")
    else:
        assert check(overlay)["mine"].shape == images.image_shape
        job()


@pytest.mark.parametrize(
    ("dataset", "model", "size", "least"),
    [("mnist", "ddpm", 16, 32), ("cifar10", "ncsn", 28, 32), ("mnist", "ncsn", 27, 28)],
)
def test_built_in_images_do_not_fit_either(dataset: str, model: str, size: int, least: int) -> None:
    overlay = {"models": {model: {"image_size": size, "fit": "pad"}}, "matrix": [entry(dataset, model)]}
    assert refusal(lambda: check(overlay)).endswith(f"image_size of {least} or more")


def test_a_class_of_the_folder_is_one_of_the_network(tmp_path: Path) -> None:
    overlay = photos(tmp_path / "mine", {"network": {"classes": 3}, "image_size": 16})
    images = loaded(overlay)
    model = MODELS["ddpm"]({"classes": 3})
    settings = {"dataset": "mine", "model": model, "training": TRAININGS["ddpm"](), "seed": 0}
    said = refusal(lambda: check(overlay))
    job = refusal(lambda: train(images, settings, tmp_path / "state", CPU, "code"))
    assert said == job.replace("models.*", "models.ddpm")
    assert "classes is 3" in said
    assert "('cats', 'dogs')" in said


# --- numbers of images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "test_fraction", "n_train"),
    [
        (10, 0.25, 16),  # the trial `tiny`
        (42, 0.25, 64),
        (41, 0.25, 62),
        (100, 0.7, 60),  # enough images, nearly all for the test
        (33, 0.01, 64),
        (32, 0.01, 62),
    ],
)
def test_training_images_are_counted(tmp_path: Path, n: int, test_fraction: float, n_train: int) -> None:
    overlay = photos(tmp_path / "mine", n=n, test_fraction=test_fraction)
    images = loaded(overlay)
    assert len(images.train_images) == n_train
    sides = (images.train_images, images.train_labels), (images.test_images, images.test_labels)
    job = lambda: reference.measure(*sides, [], "mine", "", "", CPU)  # noqa: E731
    if n_train >= 64:
        facts = check(overlay)["mine"]
        assert (facts.n_train, facts.n_test) == (len(images.train_images), len(images.test_images))
        assert facts.shape == images.image_shape
        assert facts.names == images.classes
    else:
        assert refusal(lambda: check(overlay)) == refusal(job)
        assert refusal(job).startswith(f"datasets.mine has {n_train} training images; allowed: 64 or more")


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"rare": 3, "common": 200}, 5),  # 2 to train: 3 and 2 are left
        ({"rare": 2, "common": 200}, 3),
        ({"a": 200, "b": 200, "rare": 2}, 5),
        ({"a": 200, "b": 200, "c": 200, "rare": 2}, 7),
        ({"rare": 4, "common": 200}, 7),
        ({"rare": 40, "common": 200}, None),
    ],
)
def test_a_rare_class_sampled_equally_leaves_images_to_compare_with(
    tmp_path: Path, files: dict[str, int], left: int | None
) -> None:
    for name, n in files.items():
        write_photos(tmp_path / "mine", [name], n)
    overlay = photos(tmp_path / "mine", {"network": {"classes": len(files)}})
    overlay["sampling"] = {"labels": "uniform", "n_samples": 64}
    images = loaded(overlay)
    networks = [Extractor(images.image_shape, len(files)).eval()]
    sides = (images.train_images, images.train_labels), (images.test_images, images.test_labels)
    known = reference.measure(*sides, networks, "mine", "", "", CPU)
    assert check(overlay | {"sampling": {"labels": "training"}})["mine"].class_counts == tuple(
        known.class_counts.tolist()
    )

    def job() -> Any:
        return compose(known, torch.arange(64) % len(files))

    if left is not None and left <= 5:
        said = refusal(lambda: check(overlay))
        label = images.classes.index("rare")
        assert said == refusal(job).replace(f"{label}, counted from 0,", "'rare'")
        assert said.startswith("sampling.labels gives class 'rare' ")
        n_train = int(known.class_counts[label])
        assert f"'mine' has {n_train} training images of it, which leaves {left} " in said.replace(
            "mine has", "'mine' has"
        )
        assert said.endswith("add images of that class, or set it to training")
    else:
        check(overlay)
        if left is not None:
            assert job().train_features.shape[1] == left


@pytest.mark.parametrize(("classes", "refused"), [((0,), True), ((0, 0), True), ((0, 10), False), ((10,), False)])
def test_uniform_labels_need_a_model_with_classes(classes: tuple[int, ...], refused: bool) -> None:
    models = dict(zip(("ncsn", "ddpm"), classes, strict=False))
    overlay = {
        "models": {name: {"network": {"classes": n}, "sampler": {"guidance": 1.0}} for name, n in models.items()},
        "matrix": [entry("mnist", name) for name in models],
        "sampling": {"labels": "uniform"},
    }
    if refused:
        said = refusal(lambda: check(overlay))
        assert said.startswith("sampling.labels is uniform, and ")
        assert "allowed: training" in said
    else:
        check(overlay)


def test_files_of_many_frames_are_not_counted(tmp_path: Path) -> None:
    """A file may hold any number of images; the schema lets `frames` through once it has the key."""
    write_photos(tmp_path, n=3)
    config = {"datasets": {"mine": {**photos(tmp_path)["datasets"]["mine"], "frames": "all"}}, "plugins": []}
    facts = facts_of(config, "mine", class_folders.find(tmp_path))
    assert (facts.n_train, facts.classes) == (None, 2)


@pytest.mark.parametrize(("dataset", "refused"), [("digits", True), ("mnist", False)])
def test_inception_needs_as_many_images_as_features(dataset: str, refused: bool) -> None:
    overlay = {
        "inception": {"paper": "download"},
        "sampling": {"n_samples": 2048},
        "models": {"ddpm": {"image_size": 32}},
        "matrix": [entry(dataset)],
    }
    if refused:
        said = refusal(lambda: check(overlay))
        images = torch.zeros(1433, 1, 8, 8, dtype=torch.uint8), torch.zeros(1433, dtype=torch.int64)
        network = torch.nn.Identity()
        assert said == refusal(lambda: inception.measure(images, "paper", network, "digits", ""))
        assert said.startswith("inception.paper needs 2048 training images or more")
    else:
        check(overlay)


@pytest.mark.parametrize("size", [4, 6, 8])
@pytest.mark.parametrize("n", [32, 33, 64, 65])
def test_a_last_image_alone_is_no_batch(monkeypatch: pytest.MonkeyPatch, n: int, size: int) -> None:
    """Batch norm of a single map of one pixel is an error, which no configuration would explain."""
    monkeypatch.setattr("slimdiff.metrics.networks.fit.MIN_STEPS", 1)
    images = striped_images(n, size)
    every = (torch.cat([images.train_images, images.test_images]), torch.cat([images.train_labels, images.test_labels]))
    settings = {"dataset": "x", "epochs": 1, "batch_size": 32, "learning_rate": 1e-3}
    for network, own in (
        (Classifier, ClassifierSettings(seed=0, **settings)),
        (extractors.Extractor, ExtractorSettings(seeds=(0,), **settings)),
    ):
        trained = train_network(network, every, every, 2, own, seed=0, name="x", device=CPU)
        assert 0 <= trained.accuracy <= 1


# --- networks that score ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["extractors", "classifier"])
def test_a_shipped_network_scores_its_own_data_set(tmp_path: Path, network: str) -> None:
    """Known from the header of the file: those of MNIST are for no other data set, size, or number of classes."""
    path = CONFIG["datasets"]["mnist"][network]
    header = read_header(path, network)
    for name, facts, expected in (
        ("digits", DatasetFacts(10, (), (1, 8, 8)), "for data set 'mnist', not 'digits'"),
        (
            "mnist",
            DatasetFacts(10, (), (3, 28, 28)),
            "1×28×28 (channels×height×width), and those of data set mnist are",
        ),
        ("mnist", DatasetFacts(9, (), (1, 28, 28)), "for 10 classes, and data set mnist has 9"),
    ):
        ((keys, text),) = limits.scorer_faults(network, path, header, name, facts)
        assert keys == ("datasets", name, network)
        assert expected in text
    assert not list(limits.scorer_faults(network, path, header, "mnist", limits.BUILT_IN["mnist"]))
    overlay = {
        "datasets": {"digits": {network: path}},
        "models": {"ddpm": {"image_size": 32}},
        "matrix": [entry("digits")],
    }
    assert refusal(lambda: check(overlay)).startswith(f"datasets.digits.{network} is '{path}', for data set 'mnist'")
    (tmp_path / "text.safetensors").write_text("no network")
    overlay["datasets"]["digits"][network] = str(tmp_path / "text.safetensors")
    assert refusal(lambda: check(overlay)).startswith(f"datasets.digits.{network} is ")


def test_foreign_extractors_classify_another_data_set() -> None:
    path = CONFIG["datasets"]["mnist"]["extractors"]
    overlay = {"datasets": {"mnist": {"foreign_extractors": path}}, "matrix": [entry("mnist")]}
    overlay["datasets"]["mnist"]["foreign_extractors_sha256"] = CONFIG["datasets"]["mnist"]["extractors_sha256"]
    assert refusal(lambda: check(overlay)).startswith(f"datasets.mnist.foreign_extractors is '{path}', ")


def test_the_job_says_the_same_of_extractors(tmp_path: Path) -> None:
    path = CONFIG["datasets"]["mnist"]["extractors"]
    images = striped_images(96, 8)
    image_set.write(tmp_path / "images", replace(images, dataset="digits", classes=tuple("0123456789")))
    overlay = {
        "datasets": {"digits": {"extractors": path}},
        "models": {"ddpm": {"image_size": 32}},
        "matrix": [entry("digits")],
    }
    settings = json.dumps({"dataset": "digits", "extractors_sha256": None})
    arguments = ["--settings", settings, "--images", str(tmp_path / "images"), "--extractors", path, "--out", "nowhere"]
    assert refusal(lambda: check(overlay)) == refusal(lambda: reference_stage.main(arguments))


# --- allocation, files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ["rising", "sensitivity", "pool"])
@pytest.mark.parametrize("amount", [0.98, 0.981, 0.99])
def test_every_layer_keeps_some_weights(allocation: str, amount: float) -> None:
    prune = {"method": "l1", "amount": amount, "scope": "global", "allocation": allocation}
    overlay = {
        "optimizations": {"mine": {"training": "plain", "prune": prune}},
        "matrix": [entry("mnist") | {"optimizations": ["mine"]}],
    }
    if allocation == "pool" or amount <= 0.98:
        check(overlay)
    else:
        expected = refusal(lambda: refuse(limits.allocation_faults(amount), "optimizations", "mine", "prune"))
        assert refusal(lambda: check(overlay)) == expected


@pytest.mark.parametrize("n", [45, 200])
@pytest.mark.parametrize("damage", [big, text, empty, postscript])
def test_files_that_stand_out_are_seen_by_their_headers(tmp_path: Path, damage: Callable[[Path], None], n: int) -> None:
    """Among a few files and among many, of which only some are opened."""
    overlay = photos(tmp_path / "mine", n=n)
    damage(tmp_path / "mine" / "dogs" / "7.png")
    said = refusal(lambda: check(overlay))
    assert said.startswith(f"datasets.mine.path is '{tmp_path / 'mine'}': ")
    assert said.endswith(refusal(lambda: loaded(overlay)).partition("dogs/7.png")[2])


def animated(path: Path) -> None:
    frames = [Image.new("L", (8, 8), 80 * n) for n in range(3)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


def lab(path: Path) -> None:
    Image.new("LAB", (8, 8)).save(path, format="TIFF")


def floats(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(path, format="TIFF")


def white_is_zero(path: Path) -> None:
    Image.new("L", (8, 8)).save(path, format="TIFF", tiffinfo={262: 0})


def few_bits(path: Path) -> None:
    path.write_bytes(b"P5 8 8 15\n" + bytes(64))


def second_page_of_floats(path: Path) -> None:
    pages = [Image.new("L", (8, 8)), Image.new("F", (8, 8))]
    pages[0].save(path, format="TIFF", save_all=True, append_images=pages[1:])


@pytest.mark.parametrize(
    ("write", "keys"),
    [
        (animated, {}),
        (lab, {}),
        (floats, {}),
        (second_page_of_floats, {"frames": "all"}),
        (white_is_zero, {"value_range": [0, 100]}),
        (few_bits, {"value_range": [0, 100]}),
    ],
)
def test_what_headers_tell_of_values_and_frames_is_known(
    tmp_path: Path, write: Callable[[Path], None], keys: dict[str, Any]
) -> None:
    overlay = photos(tmp_path / "mine", **keys)
    write(tmp_path / "mine" / "dogs" / "7.png")
    said = refusal(lambda: check(overlay)).partition("dogs/7.png")[2]
    job = refusal(lambda: loaded(overlay)).partition("dogs/7.png")[2]
    assert said
    assert said.rpartition(":")[2] == job.rpartition(":")[2]  # the job names the values too


def test_few_of_many_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path, n=400)
    opened: list[Path] = []
    monkeypatch.setattr(image_headers, "check_header", lambda path, reading: opened.append(path))
    paths = sorted(tmp_path.rglob("*.png"))
    for some in (paths[:300], paths):
        opened.clear()
        image_headers.check_some(some, Reading("datasets.mine", 8, 1))
        assert len(set(opened)) == len(opened) <= image_headers.MAX_LOOKED_AT
    by_size = sorted(paths, key=lambda path: path.stat().st_size)
    sizes = [path.stat().st_size for path in opened]
    assert min(sizes) == by_size[0].stat().st_size
    assert max(sizes) == by_size[-1].stat().st_size


# --- space on the disk -----------------------------------------------------------------------------------------------


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=n_bytes))


def test_space_is_counted_for_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = check({})
    outputs = list(space.outputs(CONFIG, facts))
    total = sum(output.n_bytes for output in outputs)
    assert len({output.path for output in outputs}) == len(outputs)
    free(monkeypatch, total)
    assert space.space_problem(CONFIG, facts, tmp_path / "results") is None
    free(monkeypatch, total - 1)
    said = space.space_problem(CONFIG, facts, tmp_path / "results")
    assert said is not None
    assert said.startswith(f"{tmp_path} has ")
    done = max(outputs, key=lambda output: output.n_bytes)
    (tmp_path / "results" / done.path).parent.mkdir(parents=True)
    (tmp_path / "results" / done.path).touch()
    assert space.space_problem(CONFIG, facts, tmp_path / "results") is None
    free(monkeypatch, total - done.n_bytes - 1)
    assert space.space_problem(CONFIG, facts, tmp_path / "results") is not None


@pytest.mark.parametrize(
    ("overlay", "grows"),
    [
        ({"sampling": {"n_samples": 50_000}}, "samples.npz"),
        ({"models": {"ddpm": {"network": {"base": 32}}}}, "weights.safetensors"),
        ({"inception": {"standard": "download"}, "sampling": {"n_samples": 2048}}, "inception-standard.safetensors"),
    ],
)
def test_what_the_matrix_asks_for_takes_space(overlay: dict[str, Any], grows: str) -> None:
    def total(config: dict[str, Any]) -> float:
        return sum(output.n_bytes for output in space.outputs(config, facts) if output.path.endswith(grows))

    facts = check({})
    assert total(merge(CONFIG, overlay)) > total(CONFIG)
    twice = merge(CONFIG, {"matrix": [{**one, "seeds": [0, 1]} for one in CONFIG["matrix"]]})
    assert len(list(expand(twice["matrix"]))) == 2 * len(list(expand(CONFIG["matrix"])))
    ratio = sum(one.n_bytes for one in space.outputs(twice, facts)) / sum(
        one.n_bytes for one in space.outputs(CONFIG, facts)
    )
    assert 1.2 < ratio < 2


def names(outputs: Iterable[space.Output]) -> set[str]:
    return {output.path for output in outputs}


def test_the_files_that_count_are_those_of_the_rules() -> None:
    """By their patterns in the rules, so that a renamed output is noticed."""
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    overlay = {"inception": {"paper": "download"}}
    for path in names(space.outputs(merge(CONFIG, overlay), check({}))):
        kind, name = path.split("/")[0], path.rpartition("/")[2].replace("paper", "{kind}")
        middle = {"data": "{dataset}", "train": "{TRAINING}", "cells": "{CELL}"}[kind]
        assert f"results/{kind}/{middle}/{name}" in rules
