"""Run every stage on tiny data and record which functions of the package run: `python traced_stages.py calls.json`.

The record is independent of fingerprints: it comes from Python's profiling hook. It holds pairs of file and first line,
for each stage and for the import of each module.
"""

import contextlib
import cProfile
import dataclasses
import importlib
import inspect
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from altair.utils import schemapi
from presets import ROOT, merge, preset

SOURCE = ROOT / "workflow" / "src"
EXAMPLE = ROOT / "examples" / "my_recipes.py"
# Libraries of the package that take seconds to import, and twice as long under a profiling hook.
LIBRARIES = ("altair", "diffusers.models.unets.unet_2d", "pyarrow.parquet", "scipy.special", "torch_pruning")
Calls = dict[str, set[CodeType]]

SMALL: dict[str, Any] = {
    "models": {
        **{model: {"training": {"epochs": 1}, "sampler": {"steps": 4}} for model in ("ncsn", "ddpm")},
        "unet2d": {
            "image_size": 8,
            "network": {"block_out_channels": [8, 16], "norm_num_groups": 4, "attn_norm_num_groups": 4},
            "training": {"epochs": 1},
            "sampler": {"steps": 4},
        },
    },
    "datasets": {"shapes": {"source": "shapes", "options": {"train_images": 96, "test_images": 24}}},
    "trainings": {
        "adam-8bit": {"optimizer": "adam"},
        "uniform-50": {
            "start": "plain",
            "prune": {"method": "channels", "importance": "l1", "amount": 0.5, "mode": "uniform"},
            "finetune": {"epochs": 1},
        },
    },
    "optimizations": {
        "uniform-50": {"training": "uniform-50"},
        "ddim-10": {"training": "plain", "sampler": {"method": "ddim", "steps": 10}},
        "euler-maruyama": {"training": "plain", "sampler": {"method": "euler-maruyama", "steps": 4}},
        "predictor-corrector": {"training": "plain", "sampler": {"method": "predictor-corrector", "steps": 4}},
        "ddpm": {"training": "noise-prediction", "sampler": {"method": "ddpm", "steps": 4, "clip": True}},
        "dpm-solver": {"training": "noise-prediction", "sampler": {"method": "dpm-solver++", "steps": 4, "clip": True}},
        "sensitivity-middle": {
            "training": "plain",
            "prune": {"method": "l1", "amount": 0.5, "scope": "middle", "allocation": "sensitivity"},
        },
        "random-50-module": {
            "training": "plain",
            "prune": {"method": "random", "amount": 0.5, "scope": "module:conv2"},
        },
    },
    "classifier_training": {"epochs": 1},
    "extractor_training": {"epochs": 1, "seeds": [0]},
    "sampling": {"n_samples": 64, "batch_size": 32},
    "profile": {"repeats": 1, "warmup": 0},
    "matrix": [
        {"dataset": "digits", "model": "ncsn", "optimizations": ["baseline", "l1-30"], "seeds": [0, 1]},
        {"dataset": "digits", "model": "ddpm", "optimizations": ["baseline", "distilled-2"], "seeds": [0]},
    ],
}
# Recipes without a row: only compressed, sampled and profiled.
NCSN = (
    *("ema", "linear-8bit", "linear-4bit-frozen", "adam-8bit", "l1-70+weights-8bit", "weights-4bit", "weights-bf16"),
    *(
        "random-50-module",
        "l1-50-rising",
        "sensitivity-middle",
        "groups-2",
        "bf16",
        "openvino-int8",
        "onnxruntime-int8",
        "sampler-ode",
    ),
    *("euler-maruyama", "predictor-corrector", "channels-50", "channels-50-only", "gradual-50", "aware-4bit"),
)
DDPM = (
    *("groups-2+l1-10", "channels-50-diff", "distilled-4", "steps-6-reuse-2", "noise-prediction"),
    *("ddpm", "dpm-solver", "l1-90-middle"),
)
UNET2D = ("groups-2", "channels-50-diff", "blocks-30-distilled", "blocks-30-only", "bf16", "steps-6-reuse-2")
OWN = ("baseline", "uniform-50", "ddim-10")
PROFILED = {
    "linear-8bit",
    "weights-4bit",
    "bf16",
    "openvino-int8",
    "onnxruntime-int8",
    "channels-50",
    "steps-6-reuse-2",
}
N_IMAGES = 192, 64  # numbers of training and test images


def main(out: str) -> None:
    """Trace the imports of all modules, then the stages, and write the record."""
    imports = trace_imports()
    with tempfile.TemporaryDirectory() as folder:
        stages = Stages(Path(folder))
        stages.run_all()
    record = {
        "imports": {name: sorted(map(list, places(codes))) for name, codes in imports.items()},
        "stages": {name: sorted(map(list, places(codes))) for name, codes in stages.calls.items()},
    }
    Path(out).write_text(json.dumps(record), encoding="utf-8")


def places(codes: set[CodeType]) -> set[tuple[str, int]]:
    """Return file and first line of functions of the package and of plugins, leaving out bodies of classes."""
    functions = {code for code in codes if code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.endswith(".py")}
    folders = (str(SOURCE), str(EXAMPLE.parent))
    return {(code.co_filename, code.co_firstlineno) for code in functions if code.co_filename.startswith(folders)}


def trace_imports() -> Calls:
    """Return the functions that run while a module is imported, by the module whose top level runs them."""
    calls: Calls = {}

    def note(frame: FrameType | None, event: str, argument: object) -> None:
        if event != "call" or frame is None or not frame.f_code.co_filename.startswith(str(SOURCE)):
            return
        code = frame.f_code
        while frame is not None and not (
            frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(str(SOURCE))
        ):
            frame = frame.f_back
        if frame is not None:
            calls.setdefault(frame.f_globals["__name__"], set()).add(code)

    for name in LIBRARIES:
        importlib.import_module(name)
    sys.setprofile(note)
    for path in sorted((SOURCE / "slimdiff").rglob("*.py")):
        if path.parent.name != "cli":  # not loaded by stages
            name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
            importlib.import_module(name)
    sys.setprofile(None)
    return calls


class Stages:
    """The stages of a small matrix, as the rules start them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {"models": {"own": {"family": "unet2d", "pretrained": str(folder / "own")}}}
        self.config = merge(merge(preset("smoke.yaml"), SMALL), own)
        self.calls: Calls = {}

    def run_all(self) -> None:
        """Run every stage on data sets, networks and recipes of many kinds."""
        from ownmodels import write_folder

        from slimdiff.config import lookup, resolve
        from slimdiff.config.pretrained import fill_pretrained
        from slimdiff.metrics.networks import fit
        from slimdiff.training import finetune

        fit.MIN_STEPS, finetune.LEVELS = 3, 10  # hundreds would run no other functions
        schemapi.DEBUG_MODE = False  # Altair then checks whole charts only, when they are saved
        write_folder(self.folder / "own", scheduler={"beta_schedule": "scaled_linear"})
        self.config = fill_pretrained(self.config)
        self.resolve, self.lookup = resolve, lookup
        self._prepare_data("digits")
        cells = [cell for entry in self.config["matrix"] for cell in self._cells(entry)]
        for cell in cells:
            self._make_model(**cell)
        for cell in cells:
            self._measure(**cell)
        for model, recipes in (("ncsn", NCSN), ("ddpm", DDPM), ("unet2d", UNET2D), ("own", OWN)):
            for recipe in recipes:
                cell = {"dataset": "digits", "model": model, "optimization": recipe, "seed": 0}
                self._make_model(**cell)
                self._sample(**cell)
                if recipe in PROFILED:
                    self._profile(**cell)
        self._report()
        self._inception()
        self._hub()
        self._plugins()

    @staticmethod
    def _cells(entry: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"dataset": entry["dataset"], "model": entry["model"], "optimization": optimization, "seed": seed}
            for optimization in entry["optimizations"]
            for seed in entry["seeds"]
        ]

    def _run(self, stage: str, name: str = "", /, **arguments: object) -> None:
        """Run a stage with options `--key value`, and record its calls under `name` or the stage's own name."""
        options: list[str] = []
        for key, value in arguments.items():
            if value is not None:
                values = value if isinstance(value, list) else [value]
                options += [f"--{key.replace('_', '-')}", *map(str, values)]
        module = importlib.import_module(f"slimdiff.stages.{stage}")
        with traced(self.calls.setdefault(name or stage, set())):
            module.main(options)

    def _settings(self, stage: str, *arguments: object) -> str:
        return json.dumps(getattr(self.resolve, f"{stage}_settings")(self.config, *arguments))

    def _prepare_data(self, dataset: str) -> None:
        data = self.folder / "data" / dataset
        images = data / "images.safetensors"
        settings = self._settings
        self._run("data", settings=settings("data", dataset), data_dir=self.folder, out=images)
        self._shrink(images)
        common = {"images": images, "gpu": 0}
        self._run("extractors", settings=settings("extractors", dataset), out=data / "extractors.safetensors", **common)
        self._run("classifier", settings=settings("classifier", dataset), out=data / "classifier.safetensors", **common)
        self._run(
            "reference",
            settings=settings("reference", dataset),
            extractors=data / "extractors.safetensors",
            out=data / "reference.safetensors",
            **common,
        )
        self._run(
            "reference",
            settings=settings("foreign", dataset),
            extractors=self._foreign_extractors(dataset),
            out=data / "foreign.safetensors",
            **common,
        )

    def _foreign_extractors(self, dataset: str) -> Path:
        return ROOT / str(self.config["datasets"][dataset]["foreign_extractors"])

    @staticmethod
    def _shrink(path: Path) -> None:
        """Keep only the first images of a data set."""
        from slimdiff.data import image_set

        data, (n_train, n_test) = image_set.read(path), N_IMAGES
        kept = {name: getattr(data, name)[:n_train] for name in ("train_images", "train_labels")}
        kept |= {name: getattr(data, name)[:n_test] for name in ("test_images", "test_labels")}
        image_set.write(path, dataclasses.replace(data, **kept))

    def _train(self, dataset: str, model: str, training: str, seed: int, name: str = "") -> Path:
        folder = self.folder / "train" / dataset / model / training / f"seed{seed}"
        if (folder / "train.json").exists():
            return folder
        own: dict[str, object] = {"state": self.folder / "state", "gpu": 0, "seconds_between_saves": 0.0}
        stage = "train"
        if self.lookup.is_pretrained(self.config, model):
            stage, own = "pretrained", {"folder": self.folder / "own"}
        if "start" in self.config["trainings"][training]:
            stage = "finetune"
            before = self._train(dataset, model, self.config["trainings"][training]["start"], seed, name)
            own = {"state": self.folder / "state", "gpu": 0, "seconds_between_saves": 0.0}
            own |= {"start": before / "weights.safetensors", "start_record": before / "train.json"}
        self._run(
            stage,
            name and f"{stage}{name}",
            settings=self._settings("train" if stage == "pretrained" else stage, dataset, model, training, seed),
            images=self.folder / "data" / dataset / "images.safetensors",
            out_weights=folder / "weights.safetensors",
            out_record=folder / "train.json",
            **own,
        )
        return folder

    def _cell(self, dataset: str, model: str, optimization: str, seed: int) -> Path:
        return self.folder / "cells" / dataset / model / optimization / f"seed{seed}"

    def _make_model(self, dataset: str, model: str, optimization: str, seed: int, name: str = "") -> None:
        cell = (dataset, model, optimization, seed)
        training = self._train(dataset, model, self.config["optimizations"][optimization]["training"], seed, name)
        images = self.folder / "data" / dataset / "images.safetensors"
        origin = self.resolve.origin_settings(self.config, *cell)
        self._run(
            "compress",
            name and f"compress{name}",
            settings=self._settings("compress", *cell),
            weights=training / "weights.safetensors",
            images=images if self.lookup.needs_images(self.config, optimization) else None,
            origin=json.dumps({**origin, "code": "unknown"}),
            cache=self.folder / "cache",
            identity="traced",
            out=self._cell(*cell) / "model.safetensors",
            out_packed=self._cell(*cell) / "model.packed",
        )

    def _sample(self, dataset: str, model: str, optimization: str, seed: int, name: str = "") -> None:
        cell = (dataset, model, optimization, seed)
        folder = self._cell(*cell)
        self._run(
            "sample",
            name and f"sample{name}",
            settings=self._settings("sample", *cell),
            model=folder / "model.safetensors",
            gpu=0,
            cache=self.folder / "cache",
            identity="traced",
            out=folder / "samples.npz",
            out_grid=folder / "grid.png",
        )

    def _profile(self, dataset: str, model: str, optimization: str, seed: int) -> None:
        cell = (dataset, model, optimization, seed)
        folder = self._cell(*cell)
        baseline = self._cell(dataset, model, "baseline", seed) / "model.safetensors"
        self._run(
            "profile",
            settings=self._settings("profile", *cell),
            model=folder / "model.safetensors",
            baseline=baseline if baseline.exists() else None,
            images=self.folder / "data" / dataset / "images.safetensors",
            packed=folder / "model.packed",
            gpu=0,
            identity="traced",
            out=folder / "profile.json",
        )

    def _measure(self, dataset: str, model: str, optimization: str, seed: int) -> None:
        cell = (dataset, model, optimization, seed)
        folder, data = self._cell(*cell), self.folder / "data" / dataset
        self._sample(*cell)
        self._profile(*cell)
        baseline = self.lookup.same_noise_cell(self.config, *cell)
        self._run(
            "score",
            settings=self._settings("score", *cell),
            samples=folder / "samples.npz",
            baseline=self._cell(dataset, model, baseline.optimization, seed) / "samples.npz" if baseline else None,
            images=data / "images.safetensors",
            reference=data / "reference.safetensors",
            extractors=data / "extractors.safetensors",
            foreign=data / "foreign.safetensors",
            foreign_extractors=self._foreign_extractors(dataset),
            classifier=data / "classifier.safetensors",
            identity="traced",
            gpu=0,
            out=folder / "score.json",
        )
        training = self.config["optimizations"][optimization]["training"]
        self._run(
            "row",
            cell=json.dumps(self.resolve.row_settings(self.config, *cell)),
            train=self._train(dataset, model, training, seed) / "train.json",
            score=folder / "score.json",
            profile=folder / "profile.json",
            identity="traced",
            out=folder / "row.json",
        )

    def _report(self) -> None:
        folder = self.folder
        matrix = {"matrix": folder / "matrix.parquet", "paper": ROOT / "workflow/resources/paper_reference.csv"}
        self._run(
            "aggregate",
            matrix=json.dumps(self.resolve.matrix_settings(self.config)),
            cells=folder / "cells",
            config=json.dumps(self.resolve.provenance(self.config)),
            out=folder / "matrix.parquet",
        )
        claims = [ROOT / path for path in self.config["claims"]]
        findings = folder / "findings.json"
        outputs = {"out": folder / "claims.json", "out_findings": findings}
        self._run("claims", settings=self._settings("claims"), claims=claims, **outputs, **matrix)
        shared = {**matrix, "findings": findings, "claims": folder / "claims.json", "cells": folder / "cells"}
        shared |= {"trainings": folder / "train", "benchmarks": folder / "benchmarks"}
        self._run("report", out_tables=folder / "tables", out_figures=folder / "figures", **shared)
        self._run("page", tables=folder / "tables", out=folder / "report.html", **shared)

    def _inception(self) -> None:
        """Compute reference statistics with an Inception network of random weights, evaluated on four images only."""
        import torch
        import torchvision
        from builders import striped_images

        from slimdiff.data import image_set
        from slimdiff.io import files
        from slimdiff.metrics.networks import inception, inception_weights

        placed, images, weights = self.folder / "placed", self.folder / "many.safetensors", self.folder / "paper.pth"
        placed.mkdir()
        image_set.write(images, striped_images(inception.FEATURES * 4 // 3 + 4, 8))
        network = torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False)
        known = inception_weights.WEIGHTS["paper"]
        torch.save(network.state_dict(), placed / known.names[0])
        digest = files.digest(placed / known.names[0])
        inception_weights.WEIGHTS["paper"] = dataclasses.replace(known, sha256=digest)
        features, inception.BATCH_SIZE = inception.features, 4

        def few_features(network: torch.nn.Module, images: torch.Tensor, device: torch.device) -> torch.Tensor:
            return features(network, images[:4], device).repeat(len(images) // 4 + 1, 1)[: len(images)]

        inception.features = few_features
        settings = self._settings
        self._run("inception_weights", settings=settings("inception_weights", "paper"), data_dir=placed, out=weights)
        self._run(
            "inception",
            settings=settings("inception", "stripes", "paper"),
            images=images,
            weights=weights,
            gpu=0,
            out=self.folder / "inception.safetensors",
        )

    def _hub(self) -> None:
        from hubserver import NAME, serve
        from huggingface_hub import HfApi

        from slimdiff.io import hub

        with serve(self.folder / "own") as (endpoint, _):
            hub._api = lambda: HfApi(endpoint=endpoint)
            out = hub.local_folder(NAME, self.folder) / hub.PIPELINE[-1]
            self._run("hub", name=NAME, data_dir=self.folder, out=out)

    def _plugins(self) -> None:
        """Run the stages that can use a plugin with the example's source, family and steps."""
        import yaml

        example = yaml.safe_load((EXAMPLE.parent / "config.yaml").read_text(encoding="utf-8"))
        self.config = merge(merge(self.config, example), {"sampling": SMALL["sampling"], "datasets": SMALL["datasets"]})
        self.config["models"]["residual"]["training"] |= {"epochs": 1}
        os.chdir(ROOT)  # plugin paths are relative to it
        images = self.folder / "data" / "shapes" / "images.safetensors"
        self._run("data", "data+plugin", settings=self._settings("data", "shapes"), data_dir=self.folder, out=images)
        cell = {"dataset": "shapes", "model": "residual", "optimization": "low-rank-25+mantissa-4", "seed": 0}
        self._make_model(**cell, name="+plugin")
        self._sample(**cell, name="+plugin")


@contextlib.contextmanager
def traced(codes: set[CodeType]) -> Iterator[None]:
    """Record the code of every function that is called, in any thread; in this one by cProfile, which is faster."""

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    profile = cProfile.Profile(builtins=False)
    threading.setprofile(note)
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        threading.setprofile(None)  # type: ignore[arg-type]
        codes |= {entry.code for entry in profile.getstats() if not isinstance(entry.code, str)}


if __name__ == "__main__":
    main(sys.argv[1])
