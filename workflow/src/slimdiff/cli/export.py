"""`slimdiff export`: a cell's network for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from slimdiff import __version__
from slimdiff.cli.cells import RESULTS, CellName, Results, find_model, read_record
from slimdiff.cli.config import Plugins, load_plugins
from slimdiff.cli.console import console
from slimdiff.errors import UserError
from slimdiff.io.text import size


class Format(StrEnum):
    """The values of `--to`."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    PACKED = "packed"
    DIFFUSERS = "diffusers"


def export(
    cell: CellName,
    to: Annotated[
        Format,
        typer.Option(
            "--to",
            help="onnx: network as a graph; safetensors: its tensors; packed: compressed checkpoint for slimdiff; "
            "diffusers: folder of a UNet2DModel, its scheduler and a model card.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="File to write: .onnx, .safetensors or .packed; for diffusers a new folder.")
    ],
    licence: Annotated[str, typer.Option("--licence", help="Key of the licence in the model card of diffusers.")] = (
        "unknown"
    ),
    plugin: Plugins = None,
    results: Results = RESULTS,
) -> None:
    """Export a cell's network for other programs.

    The export includes a description of inputs, denoiser and sampler. Packed files can be read only by slimdiff.
    """
    model = find_model(cell, results)
    if to is Format.DIFFUSERS:
        load_plugins(plugin)
        _export_folder(model, out, licence)
        return
    if out.suffix.lower() != f".{to}":
        raise UserError(f"--out {out} must end in .{to}")
    if out.exists() and out.samefile(model):
        raise UserError(f"--out {out} is the cell's own model: name another file")

    if to is Format.PACKED:
        from slimdiff.io.packed import is_packed, pack

        if is_packed(model):
            raise UserError(f"{model} is already packed: copy it")
        pack(model, out)
        print(f"{out}: {size(out.stat().st_size)}, {size(model.stat().st_size)} as safetensors")
        return

    from slimdiff.inference.export import write_onnx, write_safetensors
    from slimdiff.inference.model import load

    load_plugins(plugin)
    with console().status(f"writing {out}"):
        loaded = load(model)
        write = write_onnx if to is Format.ONNX else write_safetensors
        description = write(out, loaded)
    print(f"{out}: {size(out.stat().st_size)}, inputs {', '.join(description['inputs'])}")
    if description["dequantized"]:
        print(f"{len(description['dequantized'])} quantized layers are exported as float weights")
    if to is Format.ONNX:
        difference = description["max_difference"]
        checked = (
            "not checked, onnxruntime is missing" if difference is None else f"{difference:.1g} of the largest output"
        )
        print(f"{out.with_suffix('.json')}: inputs and formulas of denoiser and sampler")
        print(f"difference between ONNX Runtime and torch: {checked}")


def _export_folder(model: Path, out: Path, licence: str) -> None:
    """Write the folder of diffusers and say what is in it."""
    from slimdiff.inference.diffusers_export import check_process, write_diffusers
    from slimdiff.inference.model import load
    from slimdiff.report.model_card import write_card

    with console().status(f"writing {out}"):
        loaded = load(model)
        check_process(loaded)
        card = write_card(loaded.settings, read_record(model.with_name("row.json")), licence, __version__)
        written = write_diffusers(out, loaded, card)
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size(total)}, UNet2DModel of block_out_channels {written['config']['block_out_channels']}")
    if written["dequantized"]:
        print(f"{len(written['dequantized'])} quantized layers are exported as float weights")
    if loaded.settings["sampler"]["method"] not in ("ddpm", "ddim"):
        method = loaded.settings["sampler"]["method"]
        print(f"{method} is slimdiff's own sampler: the folder has a {written['scheduler']} of the same noise schedule")
