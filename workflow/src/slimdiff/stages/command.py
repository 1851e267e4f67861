"""What every stage's command line shares."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from slimdiff.errors import UserError
from slimdiff.io.settings import parse


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the two options that every stage takes."""
    stage = argparse.ArgumentParser(
        description=description,
        epilog="Runs by hand as well as from a rule: its outputs are the --out… paths, and nothing else is written.",
    )
    stage.add_argument("--settings", required=True, type=_settings, help="this stage's settings as a JSON object")
    stage.add_argument("--code", default="unknown", help="fingerprint of the code, recorded in what is written")
    return stage


def add_device(stage: argparse.ArgumentParser) -> None:
    """Let the stage choose its device and its number of threads."""
    stage.add_argument("--gpu", type=int, default=1, help="0: never use a GPU; 1: use one where there is one")
    stage.add_argument("--threads", type=int, default=1, help="CPU threads")


def run(main: Callable[[Sequence[str] | None], None]) -> NoReturn:
    """Call `main`; what the user can mend is printed as one line and ends with exit code 1."""
    try:
        main(None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that is read-only: the file's name is in it
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    sys.exit(0)


def _settings(text: str) -> dict[str, object]:
    """The settings that `text` holds; the plugins that they name are loaded, as everything after relies on them."""
    try:
        settings = parse(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if settings.get("plugins"):
        # By its name as text, so that no stage's fingerprint holds it: where no plugin is used it does nothing.
        importlib.import_module("slimdiff.plugins.loading").load_used(settings["plugins"])
    return settings
