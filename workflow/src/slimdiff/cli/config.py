"""What a configuration asks for, read as far as the commands need it: without Snakemake, and without its checks."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from slimdiff.config import lookup
from slimdiff.config.cells import expand
from slimdiff.errors import UserError
from slimdiff.io import strict_yaml

PRESETS = Path("config")  # their folder in a clone
BASE = Path("config.yaml")


def complete_preset(incomplete: str) -> list[str]:
    """For the shell's completion: presets that begin so."""
    return [name for name in preset_names(PRESETS) if name.startswith(incomplete)]


Presets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PRESET]...",
        help="Overlays of config.yaml: a name from config/, such as smoke, or a file of your own.",
        autocompletion=complete_preset,
        show_default=False,
    ),
]
Configs = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        help="What the matrix asks for; files after the first go on top in order.",
        show_default="config.yaml and the presets",
    ),
]

Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help="A Python file that the model was made with; several may be named. It is run.",
        show_default="the plugins of config.yaml",
    ),
]


def preset_names(folder: Path) -> list[str]:
    """The presets in `folder`, by the names that one calls them."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_preset(name: str, folder: Path) -> Path:
    """The file of a preset: the one that `name` is, or NAME.yaml in `folder`.

    Raises:
        UserError: there is neither.
    """
    for path in (Path(name), folder / name, folder / f"{name}.yaml"):
        if path.is_file():
            return path
    known = preset_names(folder)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"{folder} has {', '.join(known) or 'none'}"
    raise UserError(f"no preset {name!r}, and no such file: {hint}")


def sources(presets: Sequence[str] | None, configs: Sequence[Path] | None) -> list[Path]:
    """The files that say what is asked for, the base first; none where there is no config.yaml and none is named."""
    base = list(configs) if configs else [path for path in [BASE] if path.exists()]
    return base + [find_preset(name, PRESETS) for name in presets or ()]


def read_config(paths: Sequence[Path]) -> dict[str, Any]:
    """The files merged as Snakemake does it: mappings into each other, anything else replaced."""
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
    """Load the plugins that are `named`, or those of config.yaml where none is: files that the user chose either way.

    What a checkpoint's header names is not run: a file that came from elsewhere must not choose code.
    """
    configured = read_config([BASE]).get("plugins") if not named and BASE.exists() else None
    paths = list(named or configured or ())
    if paths:
        from slimdiff.plugins import loading

        loading.load(paths)


def cells_of(config: dict[str, Any], paths: Sequence[Path]) -> list[str]:
    """The names of the cells that `config`, read from `paths`, asks for."""
    try:
        cells = expand(config["matrix"])
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f"{', '.join(map(str, paths))}: key 'matrix' must be a list of dataset, model, optimizations and seeds; "
            "a preset without one goes on top of --config config.yaml"
        ) from None
    return [cell.path for cell in cells]


def trainings_of(config: dict[str, Any], paths: Sequence[Path]) -> list[str]:
    """The names of the trainings that those cells start from, each once."""
    found: dict[str, None] = {}
    for name in cells_of(config, paths):
        try:
            dataset, model, optimization, seed = name.split("/")
        except ValueError:
            raise UserError(f"{', '.join(map(str, paths))}: matrix names {name}, and no name may hold a /") from None
        try:
            chain = lookup.chain_of(config, lookup.training_of(config, optimization))
        except (AttributeError, KeyError, TypeError):
            raise UserError(
                f"{', '.join(map(str, paths))}: optimizations.{optimization} must name its training; "
                "`slimdiff run --dry-run` checks a configuration"
            ) from None
        found |= dict.fromkeys(f"{dataset}/{model}/{training}/{seed}" for training in chain)
    return list(found)


def _merge(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
