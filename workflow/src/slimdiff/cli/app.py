"""The `slimdiff` command: run the workflow, inspect results, export models.

Exit codes: 0 success; 1 failure, with one line that says why; 2 invalid command line; 130 Ctrl-C.
"""

import os
import sys
from typing import Annotated

import typer

from slimdiff import __version__
from slimdiff.cli.analyze import analyze
from slimdiff.cli.clean import clean
from slimdiff.cli.compare import compare
from slimdiff.cli.doctor import doctor
from slimdiff.cli.export import export
from slimdiff.cli.matrix import matrix
from slimdiff.cli.publish import publish
from slimdiff.cli.renoise import renoise
from slimdiff.cli.run import RunCommand, run
from slimdiff.cli.sample import sample
from slimdiff.cli.show import show
from slimdiff.cli.status import status
from slimdiff.errors import UserError
from slimdiff.io.streams import make_tolerant
from slimdiff.io.text import one_line

FAILED, USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="slimdiff",
    rich_markup_mode="rich" if sys.stdout.isatty() else None,  # a pipe gets plain text
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


@app.callback()
def slimdiff(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """How far can a diffusion model be slimmed before its images get worse?

    `slimdiff run` fills a folder of results; the other commands inspect it. Each has its own --help.
    """
    if version:
        print(f"slimdiff {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(USAGE)


app.command("run", cls=RunCommand, rich_help_panel="Run")(run)
for panel, commands in {
    "Run": (status, doctor),
    "Inspect": (matrix, analyze, show, compare, sample, renoise),
    "Publish, export and clean up": (publish, export, clean),
}.items():
    for command in commands:
        app.command(command.__name__, rich_help_panel=panel)(command)


def main() -> None:
    """Run the command; print an error that the user can fix as one line on standard error, and exit."""
    make_tolerant()
    try:
        code = app(standalone_mode=False, prog_name="slimdiff")
        sys.stdout.flush()
    except UserError as error:
        code = _complain(str(error), FAILED)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "slimdiff"
        code = _complain(f"{error.format_message()} (see `{path} --help`)", USAGE)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # `slimdiff show … | head`: Python would fail again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except OSError as error:
        code = _complain(str(error), FAILED)
    sys.exit(code or 0)


def _complain(text: str, code: int) -> int:
    print(f"error: {one_line(' '.join(text.split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
