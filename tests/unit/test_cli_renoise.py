"""`slimdiff renoise`: each choice is compared with training images, and the best one printed for the config."""

import re
from pathlib import Path

import clifolders
import pytest
import yaml

import slimdiff
from slimdiff.cli import app
from slimdiff.metrics import reference
from slimdiff.metrics.frechet import frechet_distance, statistics
from slimdiff.metrics.networks import extractors

N = ("--n", "64")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = clifolders.write_clone(tmp_path / "clone")
    clifolders.write_tuned(root)
    monkeypatch.chdir(root)
    return root


def test_the_best_choice_has_the_smallest_distance_from_training_images(here, command):
    levels = [word for level in ("0.2", "3.0", "0.9") for word in ("--level", level)]
    code, out, err = command("renoise", clifolders.TUNED, "--steps", "3", "--seed", "9", *N, *levels)
    assert code == 0, err
    rows = re.findall(r"\[([\d., ]+)\] +([\d.]+)$", out, re.MULTILINE)
    found = {tuple(float(level) for level in key.split(", ")): float(distance) for key, distance in rows}
    assert set(found) == {(3.0, 0.9), (3.0, 0.2), (0.9, 0.2)}
    chosen = yaml.safe_load(out.splitlines()[-1])["sampler"]
    assert chosen == {"method": "consistency", "steps": 3, "renoise": list(min(found, key=found.__getitem__))}

    loaded = slimdiff.load(f"results/cells/{clifolders.TUNED}/model.safetensors")
    loaded.settings["sampler"] |= {"steps": 3, "renoise": [3.0, 0.9]}
    images, real = loaded.sample(64, 9).images, reference.read("results/data/mnist/reference.safetensors")
    networks = extractors.read("workflow/resources/extractors/mnist.safetensors")
    distances = [
        frechet_distance(statistics(kept.double()), statistics(extractors.features(network, images)))
        for kept, network in zip(real.train_features, networks, strict=True)
    ]
    assert found[3.0, 0.9] == pytest.approx(sum(distances) / 3, abs=0.006)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((clifolders.REAL[0],), f"the sampler of {clifolders.REAL[0]} is heun; allowed: consistency"),
        ((clifolders.TUNED, "--level", "0.5", "--steps", "3"), "--level is [0.5]; allowed with --steps 3: 2 levels"),
        ((clifolders.TUNED, "--level", "0.0"), "--level is [0.0]; allowed with --steps 2: 1 levels or more, above 0"),
        (
            (clifolders.TUNED, "--extractors", "workflow/resources/extractors/fashion_mnist.safetensors"),
            "--extractors workflow/resources/extractors/fashion_mnist.safetensors has the SHA-256 97e9",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(here, command, arguments, part):
    code, _, err = command("renoise", *arguments, *N)
    assert code == app.FAILED
    assert part in err
