"""`slimdiff run`: Snakemake with what suits this machine, for people who need not know it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from slimdiff.cli.config import BASE, PRESETS, Presets, find_preset
from slimdiff.errors import UserError
from slimdiff.io import strict_yaml
from slimdiff.runtime import run_lock

PASSED_ON = "slimdiff.cli.run"  # under which the arguments after -- stand in the context


class PassingOn(typer.core.TyperCommand):
    """A command that leaves alone what follows `--`: it is for another program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Set the rest aside, and parse what comes before it."""
        if "--" in args:
            cut = args.index("--")
            ctx.meta[PASSED_ON] = args[cut + 1 :]
            args = args[:cut]
        return super().parse_args(ctx, args)


def run(
    context: typer.Context,
    presets: Presets = None,
    configfile: Annotated[
        list[Path] | None, typer.Option("--configfile", help="An overlay of your own; goes on top of the presets.")
    ] = None,
    cores: Annotated[str, typer.Option("--cores", help="CPU cores to use: a number, or all.")] = "all",
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=0, help="Jobs that may use a GPU at once.", show_default="as many as there are"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only list what would run.")] = False,
) -> None:
    """Run what config.yaml and the presets ask for.

    Only what is not there yet is made. A run may be interrupted (Ctrl-C) at any time, and the next goes on from there.
    What follows -- goes to Snakemake as it is: slimdiff run smoke -- --forcerun score
    """
    if cores != "all" and not (cores.isdigit() and int(cores) > 0):
        raise typer.BadParameter(f"--cores is {cores!r}; allowed: a number above 0, or all")
    root = find_root(Path.cwd())
    overlays = [find_preset(name, root / PRESETS) for name in presets or ()]
    for path in configfile or ():
        if not path.is_file():
            raise UserError(f"--configfile {path} does not exist")
        overlays.append(path)
    rest = context.meta.get(PASSED_ON, [])
    worker = None if dry_run or rest else run_lock.find_worker(root / ".snakemake")  # other targets may be free
    if worker:
        raise UserError(f"another run works in {root} ({worker}): wait for it, or end it, then run again")
    for path in [root / BASE, *overlays]:  # Snakemake would run the expressions of a template, and end in a traceback
        if path.is_file():
            strict_yaml.read_config(path)
    arguments = snakemake_arguments(
        [Path(os.path.relpath(path, root)) for path in overlays],
        cores,
        count_gpus() if gpus is None else gpus,
        [*(["--dry-run"] if dry_run else []), *rest],
    )
    print(f"snakemake {shlex.join(arguments)}", file=sys.stderr, flush=True)
    # In our place, not below us: Ctrl-C, signals and the exit code are then Snakemake's own.
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *arguments])


def snakemake_arguments(overlays: list[Path], cores: str, gpus: int, rest: list[str]) -> list[str]:
    """The command line; an option that takes several values never stands before `rest`, whose first it would take."""
    files = ["--configfile", *map(str, overlays)] if overlays else []
    return ["--resources", f"gpu={gpus}", *files, "--cores", cores, *rest]


def find_root(start: Path) -> Path:
    """The clone that `start` is in: the folder of its Snakefile.

    Raises:
        UserError: there is none.
    """
    for folder in (start, *start.parents):
        if is_root(folder):
            return folder
    own = Path(__file__).parents[4]
    place = f"the one that this command comes from: cd {own}" if is_root(own) else "a clone of slimdiff's repository"
    raise UserError(f"{start} is in no folder that holds slimdiff's Snakefile; go to {place}")


def is_root(folder: Path) -> bool:
    """Whether `folder` holds the workflow."""
    return (folder / "Snakefile").is_file() and (folder / "workflow" / "rules").is_dir()


def count_gpus() -> int:
    """How many GPUs nvidia-smi lists; 0 where there is no nvidia-smi."""
    try:
        command = ["nvidia-smi", "--list-gpus"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len(done.stdout.splitlines()) if done.returncode == 0 else 0
