"""Configuration files for the commands: merged as by Snakemake, without validation."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from slimdiff.config import lookup
from slimdiff.config.axes import expand_axes
from slimdiff.config.cells import expand
from slimdiff.errors import UserError
from slimdiff.io import strict_yaml

PRESETS = Path("config")  # folder of the presets in a clone
BASE = Path("config.yaml")


def complete_preset(incomplete: str) -> list[str]:
    """Return the presets that start with `incomplete`, for shell completion."""
    return [name for name in preset_names(PRESETS) if name.startswith(incomplete)]


Presets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PRESET]...",
        help="Overlays of config.yaml: a name from config/, such as smoke, or the path of a file.",
        autocompletion=complete_preset,
        show_default=False,
    ),
]
Configs = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        help="Configuration file; later files override earlier ones.",
        show_default="config.yaml and the presets",
    ),
]

Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help="Python file that the model was made with; repeatable. It is executed.",
        show_default="the plugins of config.yaml",
    ),
]


def preset_names(folder: Path) -> list[str]:
    """Return the names of the presets in `folder`."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_preset(name: str, folder: Path) -> Path:
    """Return the file of a preset: the path `name`, or NAME.yaml in `folder`.

    Raises:
        UserError: neither exists.
    """
    for path in (Path(name), folder / name, folder / f"{name}.yaml"):
        if path.is_file():
            return path
    names = preset_names(folder)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"presets in {folder}: {', '.join(names) or 'none'}"
    raise UserError(f"no preset or file {name!r}: {hint}")


def sources(presets: Sequence[str] | None, configs: Sequence[Path] | None) -> list[Path]:
    """Return the configuration files, the base first; empty without config.yaml and without a given file."""
    base = list(configs) if configs else [path for path in [BASE] if path.exists()]
    return base + [find_preset(name, PRESETS) for name in presets or ()]


def read_config(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the files merged as by Snakemake: mappings are merged, everything else is replaced."""
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = strict_yaml.read_config(path)
        except FileNotFoundError:
            raise UserError(f"--config {path} does not exist") from None
        except OSError as error:
            raise UserError(f"--config {path} cannot be read: {error.strerror}") from None
        except UserError as error:
            raise UserError(f"--config {error}") from None
        _merge(merged, content)
    return merged


def load_plugins(named: Sequence[Path] | None) -> None:
    """Load the plugins that are `named`, or else those of config.yaml.

    Plugins named in a checkpoint's header are never loaded: an untrusted file must not choose code to run.
    """
    configured = read_config([BASE]).get("plugins") if not named and BASE.exists() else None
    paths = list(named or configured or ())
    if paths:
        from slimdiff.plugins import loading

        loading.load(paths)


def cells_of(config: dict[str, Any], paths: Sequence[Path]) -> list[str]:
    """Return the names of the cells in the matrix of `config`, which was read from `paths`."""
    try:
        cells = expand(expand_axes(config)["matrix"])
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f"{', '.join(map(str, paths))}: key 'matrix' must be a list of dataset, model, optimizations and seeds; "
            "a preset without one needs --config config.yaml before it"
        ) from None
    return [cell.path for cell in cells]


def trainings_of(config: dict[str, Any], paths: Sequence[Path]) -> list[str]:
    """Return the names of the trainings that those cells use, each once."""
    trainings: dict[str, None] = {}
    names = cells_of(config, paths)
    config = expand_axes(config)
    for name in names:
        try:
            dataset, model, optimization, seed = name.split("/")
        except ValueError:
            raise UserError(f"{', '.join(map(str, paths))}: matrix holds {name}; a name must not hold a /") from None
        try:
            chain = lookup.chain_of(config, lookup.training_of(config, optimization))
        except (AttributeError, KeyError, TypeError):
            raise UserError(
                f"{', '.join(map(str, paths))}: optimizations.{optimization} must name its training; "
                "`slimdiff run --dry-run` validates a configuration"
            ) from None
        trainings |= dict.fromkeys(f"{dataset}/{model}/{training}/{seed}" for training in chain)
    return list(trainings)


def _merge(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
