"""Stub stages, to test the rules in seconds and without torch.

Tests copy this file into a clone's package folder as sitecustomize.py, which every Python imports at start-up. A Python
started with `-m slimdiff.stages.…` writes the outputs on its command line and exits; any other continues normally.
$STAND_IN_FAILS names a stage that fails, $STAND_IN_WAITS a stage that runs as long as the file `wait` exists, and
$STAND_IN_RAISES a stage and the exception that it raises; each try adds a line to the file `tries`.
"""

import builtins
import os
import sys
import time
import traceback
from pathlib import Path

WEIGHTS_BYTES = 2_000_000  # above Snakemake's size limit for comparing contents instead of dates


def outputs(options: dict[str, str]) -> list[Path]:
    paths = [Path(value) for key, value in options.items() if key.startswith("--out")]
    if "--out-tables" in options:
        from slimdiff.report import contents

        tables, figures = Path(options["--out-tables"]), Path(options["--out-figures"])
        paths = [tables / f"{name}.{suffix}" for name in contents.TABLE_NAMES for suffix in contents.TABLE_FORMATS]
        paths += [figures / f"{name}.{suffix}" for name in contents.FIGURE_NAMES for suffix in contents.FIGURE_FORMATS]
    return paths


stage = next((word for word in sys.orig_argv if word.startswith("slimdiff.stages.")), None)
if stage is not None:
    print(stage, "OMP_NUM_THREADS", os.environ["OMP_NUM_THREADS"], *sys.orig_argv, flush=True)
    deadline = time.monotonic() + 120
    while os.environ.get("STAND_IN_WAITS") == stage and Path("wait").exists() and time.monotonic() < deadline:
        with Path("alive").open("a") as file:  # grows while this process runs
            file.write(f"{os.getpid()}\n")
        time.sleep(0.05)
    if os.environ.get("STAND_IN_FAILS") == stage:
        sys.exit("error: STAND_IN_FAILS")
    if os.environ.get("STAND_IN_RAISES", "").startswith(f"{stage} "):
        from slimdiff import errors
        from slimdiff.stages import command

        name = os.environ["STAND_IN_RAISES"].split()[1]

        def main(argv: object) -> None:
            raise getattr(errors, name, getattr(builtins, name, None))("as planned")

        with Path("tries").open("a") as file:
            file.write(f"{name}\n")
        try:
            command.run(main)
        except Exception:  # raised here, it would only be noted, and the stage would go on
            traceback.print_exc()
            os._exit(1)
    for path in outputs(dict(zip(sys.orig_argv, sys.orig_argv[1:], strict=False))):
        path.parent.mkdir(parents=True, exist_ok=True)
        filler = b"\0" * WEIGHTS_BYTES if path.name == "weights.safetensors" else b""
        path.write_bytes(str(path).encode() + filler)
    os._exit(0)
