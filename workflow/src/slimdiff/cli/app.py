"""The `slimdiff` command: run the workflow, look at results, and take models elsewhere.

Exit codes: 0 done; 1 failed or refused, with one line that says why; 2 the command line itself is wrong; 130 Ctrl-C.
"""

import os
import sys
from typing import Annotated

import typer

from slimdiff import __version__
from slimdiff.cli import clean, compare, doctor, export, matrix, run, sample, show, status
from slimdiff.errors import UserError
from slimdiff.io.text import one_line

FAILED, USAGE, INTERRUPTED = 1, 2, 130

# What is wrong with a command line; UsageError has no public name where typer brings its own copy of click.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="slimdiff",
    # Boxes and colours belong on a terminal; what is piped stays plain text.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


@app.callback()
def slimdiff(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """How far can a diffusion model be slimmed before its images get worse?

    `slimdiff run` fills a folder of results; the other commands look into it. Each has its own --help.
    """
    if version:
        print(f"slimdiff {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(USAGE)


for panel, modules in {
    "Run": (run, status, doctor),
    "Look": (matrix, show, compare, sample),
    "Take and tidy": (export, clean),
}.items():
    for module in modules:
        name = module.__name__.rpartition(".")[2]
        command = getattr(module, name)
        app.command(name, cls=run.PassingOn if module is run else None, rich_help_panel=panel)(command)


def main() -> None:
    """Run the command; what the user can mend is one line on the standard error, and an exit code."""
    try:
        code = app(standalone_mode=False, prog_name="slimdiff")
        sys.stdout.flush()
    except UserError as error:
        code = _complain(str(error), FAILED)
    except USAGE_ERROR as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "slimdiff"
        text = getattr(error, "format_message", error.__str__)()
        code = _complain(f"{text} (`{path} --help` says what there is)", USAGE)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # `slimdiff show … | head`: nobody reads on, and Python must not try at its end
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
