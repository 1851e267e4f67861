"""`slimdiff export`: a cell's network for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from slimdiff.cli.cells import RESULTS, CellName, Results, find_model
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
            help="onnx: network as a graph; safetensors: its tensors; packed: compressed checkpoint for slimdiff.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write: .onnx, .safetensors or .packed.")],
    plugin: Plugins = None,
    results: Results = RESULTS,
) -> None:
    """Export a cell's network for other programs.

    The export includes a description of inputs, denoiser and sampler. Packed files can be read only by slimdiff.
    """
    if to is Format.DIFFUSERS:
        raise UserError(
            "--to diffusers: slimdiff writes no pipelines; use --to onnx, which runs anywhere, or --to safetensors, "
            "where the tensors of family unet2d are those of diffusers' UNet2DModel"
        )
    if out.suffix.lower() != f".{to}":
        raise UserError(f"--out {out} must end in .{to}")
    model = find_model(cell, results)
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
