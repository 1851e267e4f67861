"""Load plugins: import their files, and enter what they register in slimdiff's tables.

The tables hold each plugin function in a wrapper. It checks arguments and results, and turns any error into one line
that names the plugin's file.
"""

import dataclasses
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import jsonschema
import numpy as np
import torch
from torch import nn

from slimdiff.catalog.families import FAMILIES
from slimdiff.compression import restore, steps
from slimdiff.data import sources
from slimdiff.data.image_set import ImageSet
from slimdiff.diffusion import denoiser
from slimdiff.errors import UserError
from slimdiff.models import registry
from slimdiff.plugins import (
    PENDING,
    REGISTERED,
    NetworkFamily,
    Options,
    Registered,
    Source,
    Step,
    missing_plugins,
)
from slimdiff.plugins.declarations import Declaration, own_modules, parse_plugin, read
from slimdiff.plugins.schema import options_schema

LOADED: dict[Path, str] = {}  # plugins that were imported, with the paths that the user gave
Result = TypeVar("Result")


def load_used(entries: Sequence[Mapping[str, str]]) -> None:
    """Load the plugins in a stage's setting `plugins`, and check that they are those that the run was planned with.

    Raises:
        UserError: a file is missing or wrong, or was edited since.
    """
    load(dict.fromkeys(entry["path"] for entry in entries))
    for problem in missing_plugins(entries):
        raise UserError(problem)


def load(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Import the plugins in `paths` that are not loaded yet.

    Raises:
        UserError: a file is missing, cannot be imported, or registers a name that is taken.
    """
    for given in paths:
        path = os.fspath(given)
        file = Path(path).resolve()
        if file in LOADED:
            continue
        if not file.is_file():
            raise UserError(f"the plugin {path} does not exist; correct its path")
        codes = {_key(declaration): declaration.code for declaration in read(path)}
        PENDING.clear()
        _import(path, file)
        registered, PENDING[:] = list(PENDING), []
        if {_key(registration) for registration in registered} != codes.keys():
            raise UserError(f"{path} registers something that no top-level decorator of the file declares")
        for registration in registered:
            _install(dataclasses.replace(registration, path=path, code=codes[_key(registration)]))
        LOADED[file] = path


def _key(item: Registered | Declaration[Any]) -> tuple[str, str]:
    """Return kind and name."""
    return item.declared.kind, item.declared.name


def _import(path: str, file: Path) -> ModuleType:
    """Import the file by its own name, its folder last on the path, where it hides no library."""
    if not file.stem.isidentifier() or file.suffix != ".py":
        raise UserError(f"the plugin {path} needs a name that Python can import: letters, digits and _, then .py")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    importlib.invalidate_caches()
    module = call_plugin(path, "loading it", lambda: importlib.import_module(file.stem))
    for name, own in own_modules(*parse_plugin(file)).items():
        imported = getattr(sys.modules.get(name), "__file__", None)
        if imported is not None and Path(imported).resolve() != own.resolve():
            raise UserError(f"the plugin {path}: {own.name} has the name of another module ({imported}); rename it")
    return module


def _install(registration: Registered) -> None:
    """Enter one registration in its tables."""
    declared = registration.declared
    where = f"{registration.path}, {declared.kind} {declared.name!r}"
    tables: dict[str, Mapping[str, Any]]
    tables = {"step": steps.STEPS, "family": registry.NETWORKS, "source": sources.SOURCES}
    if declared.name in tables[declared.kind]:
        raise UserError(f"{where} conflicts with an existing name; rename it")
    if isinstance(declared, Step):
        steps.STEPS[declared.name] = _step(where, declared, registration)
        if registration.restore is not None:
            restore.RESTORERS[declared.name] = _restorer(where, registration.restore)
    elif isinstance(declared, NetworkFamily):
        FAMILIES[declared.name] = declared.as_family
        denoiser.EDM_NOISE_SCALE[declared.name] = declared.noise_scale
        registry.NETWORKS[declared.name] = _family(where, declared, registration)
    else:
        sources.SOURCES[declared.name] = _source(where, declared, registration)
    REGISTERED[declared.kind, declared.name] = registration


def _step(
    where: str, declared: Step, registration: Registered
) -> Callable[[nn.Module, Mapping[str, Any], int], restore.StructuralChange | None]:
    def apply(network: nn.Module, settings: Mapping[str, Any], seed: int) -> restore.StructuralChange | None:
        _check_options(f"{where}, settings", declared.settings, settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            record = call_plugin(registration.path, where, lambda: registration.function(network, dict(settings), seed))
        if (record is not None) != declared.restores:
            expected = "a record for its restore function" if declared.restores else "None, since it has no restore"
            raise UserError(f"{where} must return {expected}")
        return None if record is None else {"step": declared.name, "record": record}

    return apply


def _restorer(where: str, function: Callable[..., Any]) -> Callable[[nn.Module, Any, Mapping[str, torch.Tensor]], None]:
    def rebuild(network: nn.Module, record: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        call_plugin(where.partition(",")[0], f"{where}, restore", lambda: function(network, record, tensors))

    return rebuild


def _family(
    where: str, declared: NetworkFamily, registration: Registered
) -> Callable[[Mapping[str, Any], int | str], nn.Module]:
    def build(model: Mapping[str, Any], groups: int | str) -> nn.Module:
        _check_options(f"{where}, network", declared.network, model["network"])
        arguments = (dict(model["network"]), model["channels"], model["image_size"], groups)
        network = call_plugin(registration.path, where, lambda: registration.function(*arguments))
        if not isinstance(network, nn.Module):
            raise UserError(f"{where} must return a torch.nn.Module, not {type(network).__name__}")
        prune_scopes: Any = getattr(network, "prune_scopes", None)
        if not callable(prune_scopes):
            raise UserError(
                f"{where}: its network needs the method prune_scopes(), which returns names of modules by scope"
            )
        scopes = call_plugin(registration.path, f"{where}, prune_scopes", prune_scopes)
        if set(scopes) != set(declared.scopes):
            raise UserError(
                f"{where}: prune_scopes() returns {', '.join(scopes)}; declared are {', '.join(declared.scopes)}"
            )
        return network

    return build


def _source(where: str, declared: Source, registration: Registered) -> Callable[[sources.DataSettings, Path], ImageSet]:
    def load_images(settings: sources.DataSettings, data_dir: Path) -> ImageSet:
        options = dict(settings.options or {})
        _check_options(f"{where}, options", declared.options, options)
        parts = call_plugin(registration.path, where, lambda: registration.function(options, data_dir))
        if not isinstance(parts, tuple | list) or len(parts) != 4:
            raise UserError(f"{where} must return train_images, train_labels, test_images, test_labels")
        tensors = [part if isinstance(part, torch.Tensor) else torch.from_numpy(np.asarray(part)) for part in parts]
        train_images, train_labels = _images(f"{where}: train", tensors[0], tensors[1], len(declared.classes))
        test_images, test_labels = _images(f"{where}: test", tensors[2], tensors[3], len(declared.classes))
        if train_images.shape[1:] != test_images.shape[1:]:
            raise UserError(f"{where}: training and test images differ in size")
        return ImageSet(
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
            dataset=settings.name,
            classes=tuple(declared.classes),
            source=f"the plugin {registration.path}",
        )

    return load_images


def _images(where: str, images: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and labels of one split as ImageSet holds them: (N, C, H, W) uint8 and (N,) int64."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        got = f"{images.dtype} {tuple(images.shape)}"
        raise UserError(f"{where}_images must be uint8 (N, C, H, W), C 1 or 3, not {got}")
    if labels.is_floating_point() or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {tuple(labels.shape)}"
        raise UserError(f"{where}_labels must be integers ({len(images)},), not {got}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(f"{where}_labels must be 0 to {classes - 1}, the index of a class")
    # Copies, since the four may be views of one array and safetensors refuses shared memory.
    return images.contiguous().clone(), labels.long().contiguous().clone()


def _check_options(where: str, options: Options, given: Mapping[str, Any]) -> None:
    """Check settings by the plugin's schema, for stages started by hand.

    Raises:
        UserError: a setting is missing, unknown or wrong.
    """
    schema = options_schema(options, "")
    for error in jsonschema.Draft202012Validator(schema).iter_errors(dict(given)):
        key = ".".join(map(str, error.absolute_path))
        raise UserError(f"{where}{f'.{key}' if key else ''}: {error.message}")


def call_plugin(path: str, where: str, function: Callable[[], Result]) -> Result:
    """Return what `function`, a plugin's code, returns.

    Raises:
        UserError: it raised something; one line, with the line in its file.
    """
    try:
        return function()
    except UserError as error:
        raise UserError(f"the plugin {where}: {error}" if path not in str(error) else str(error)) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).name == Path(path).name]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        place = f", line {lines[-1]}" if lines else ""
        reason = " ".join(str(error).split())
        raise UserError(f"the plugin {path}{place}: {where}: {type(error).__name__}: {reason}") from error
