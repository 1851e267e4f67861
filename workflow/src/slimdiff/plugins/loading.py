"""Load plugins: import their files, and put what they register into the tables that it belongs to.

What a plugin's function is handed and gives back is checked here, so that a mistake of its own is one line that names
the file. Nothing here is part of a stage's fingerprint: it acts in jobs that use a plugin alone, and those are rerun by
the plugin's own digest.
"""

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
from slimdiff.compression import restore as structure
from slimdiff.compression import steps
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
    declarations,
    digest,
    missing,
)
from slimdiff.plugins.schema import options_schema

LOADED: dict[Path, str] = {}  # plugins that were imported, and how they were named
Result = TypeVar("Result")


def load_used(entries: Sequence[Mapping[str, str]]) -> None:
    """Load the plugins that a stage's setting `plugins` names, and see that they are the ones that were planned with.

    Raises:
        UserError: a file is missing, wrong, or was edited since.
    """
    load(dict.fromkeys(entry["path"] for entry in entries))
    for problem in missing(entries):
        raise UserError(problem)


def load(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Import the plugins in `paths`; one that is loaded already is left as it is.

    Raises:
        UserError: a file is missing, cannot be imported, or registers something that is there already.
    """
    for given in paths:
        path = os.fspath(given)
        file = Path(path).resolve()
        if file in LOADED:
            continue
        if not file.is_file():
            raise UserError(f"the plugin {path} does not exist; correct its path")
        known = {(one.declared.kind, one.declared.name): one for one in declarations.read(path)}
        PENDING.clear()
        _import(path, file)
        found, PENDING[:] = list(PENDING), []
        if {(one.declared.kind, one.declared.name) for one in found} != known.keys():
            raise UserError(f"{path} registers something else than its decorators at the top of the file say")
        for one in found:
            key = (one.declared.kind, one.declared.name)
            _install(Registered(one.declared, one.function, one.restore, path, known[key].code))
        LOADED[file] = path


def _import(path: str, file: Path) -> ModuleType:
    """Run the file as the module of its own name, with its folder first on the path, as Python runs a script."""
    if not file.stem.isidentifier() or file.suffix != ".py":
        raise UserError(f"the plugin {path} needs a name that Python can import: letters, digits and _, then .py")
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    importlib.invalidate_caches()
    module = called(path, "loading it", lambda: importlib.import_module(file.stem))
    expected = {file.stem: file, **digest.beside(file, digest.parse(file))}
    for name, place in expected.items():
        taken = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None)
        if taken is not None and Path(taken).resolve() != place.resolve():
            raise UserError(f"the plugin {path}: {place.name} has the name of another module ({taken}); rename it")
    return module


def _install(one: Registered) -> None:
    """Put one registration into its tables."""
    declared, where = one.declared, f"{one.path}, {one.declared.kind} {one.declared.name!r}"
    tables: dict[str, Mapping[str, Any]]
    tables = {"step": steps.STEPS, "family": registry.FAMILIES, "source": sources.SOURCES}
    taken = tables[declared.kind]
    if declared.name in taken:
        raise UserError(f"{where} would stand in the place of another; give it another name")
    if isinstance(declared, Step):
        steps.STEPS[declared.name] = _step(where, declared, one)
        if one.restore is not None:
            structure.RESTORERS[declared.name] = _restorer(where, one.restore)
    elif isinstance(declared, NetworkFamily):
        FAMILIES[declared.name] = declared.entry
        denoiser.EDM_NOISE_SCALE[declared.name] = declared.noise_scale
        registry.FAMILIES[declared.name] = _family(where, declared, one)
    else:
        sources.SOURCES[declared.name] = _source(where, declared, one)
    REGISTERED[declared.kind, declared.name] = one


def _step(
    where: str, declared: Step, one: Registered
) -> Callable[[nn.Module, Mapping[str, Any], int], structure.StructuralChange | None]:
    def apply(network: nn.Module, settings: Mapping[str, Any], seed: int) -> structure.StructuralChange | None:
        _check(f"{where}, settings", declared.settings, settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            record = called(one.path, where, lambda: one.function(network, dict(settings), seed))
        if (record is not None) != declared.restores:
            wanted = "a record for its restore, and gave none" if declared.restores else "nothing, as it has no restore"
            raise UserError(f"{where} must return {wanted}")
        return None if record is None else {"step": declared.name, "record": record}

    return apply


def _restorer(where: str, restore: Callable[..., Any]) -> Callable[[nn.Module, Any, Mapping[str, torch.Tensor]], None]:
    def rebuild(network: nn.Module, record: Any, tensors: Mapping[str, torch.Tensor]) -> None:
        called(where.partition(",")[0], f"{where}, restore", lambda: restore(network, record, tensors))

    return rebuild


def _family(
    where: str, declared: NetworkFamily, one: Registered
) -> Callable[[Mapping[str, Any], int | str], nn.Module]:
    def build(model: Mapping[str, Any], groups: int | str) -> nn.Module:
        _check(f"{where}, network", declared.network, model["network"])
        arguments = (dict(model["network"]), model["channels"], model["image_size"], groups)
        network = called(one.path, where, lambda: one.function(*arguments))
        if not isinstance(network, nn.Module):
            raise UserError(f"{where} must return a torch.nn.Module, not {type(network).__name__}")
        prune_scopes: Any = getattr(network, "prune_scopes", None)
        if not callable(prune_scopes):
            raise UserError(f"{where}: its network needs the method prune_scopes(): names of modules by scope")
        scopes = called(one.path, f"{where}, prune_scopes", prune_scopes)
        if set(scopes) != set(declared.scopes):
            raise UserError(f"{where}: prune_scopes() has {', '.join(scopes)}, declared {', '.join(declared.scopes)}")
        return network

    return build


def _source(where: str, declared: Source, one: Registered) -> Callable[[sources.DataSettings, Path], ImageSet]:
    def read(settings: sources.DataSettings, data_dir: Path) -> ImageSet:
        options = dict(settings.options or {})
        _check(f"{where}, options", declared.options, options)
        parts = called(one.path, where, lambda: one.function(options, data_dir))
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
            source=f"the plugin {one.path}",
        )

    return read


def _images(where: str, images: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of one half of a data set as ImageSet has them."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        found = f"{images.dtype} {tuple(images.shape)}"
        raise UserError(f"{where}_images must be uint8 (N, C, H, W), C 1 or 3, not {found}")
    if labels.is_floating_point() or labels.shape != images.shape[:1]:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise UserError(f"{where}_labels must be whole numbers ({len(images)},), not {found}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(f"{where}_labels must be 0 to {classes - 1}, an index of its class each")
    # Copies: the four may be views of one array, and a file holds each tensor for itself.
    return images.contiguous().clone(), labels.long().contiguous().clone()


def _check(where: str, options: Options, given: Mapping[str, Any]) -> None:
    """Hold settings against the plugin's schema, for stages that are started by hand."""
    schema = options_schema(options, "")
    for error in jsonschema.Draft202012Validator(schema).iter_errors(dict(given)):
        key = ".".join(map(str, error.absolute_path))
        raise UserError(f"{where}{f'.{key}' if key else ''}: {error.message}")


def called(path: str, where: str, function: Callable[[], Result]) -> Result:
    """What `function`, the plugin's code, returns; what it raises is one line with the place in its file."""
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
