"""`slimdiff export`: a cell's network for programs that know nothing of slimdiff."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from slimdiff.cli.cells import RESULTS, CellName, Results, find_model
from slimdiff.cli.config import Plugins, load_plugins
from slimdiff.cli.console import console, size
from slimdiff.errors import UserError


class Format(StrEnum):
    """What `--to` may be."""

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
            help="onnx: the network as a graph; safetensors: its tensors; packed: its checkpoint in fewer bytes.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write: .onnx, .safetensors or .packed.")],
    plugin: Plugins = None,
    results: Results = RESULTS,
) -> None:
    """Write a cell's network for other programs.

    With it goes a description of its inputs, and of how a denoiser and a sampler are made of it. A packed file is for
    slimdiff itself, which loads and unpacks it.
    """
    if to is Format.DIFFUSERS:
        raise UserError(
            "--to diffusers: its pipelines load its own architectures alone, and neither of slimdiff's networks is one "
            "of them; --to onnx writes a network that runs anywhere, with what a sampler must know of it"
        )
    if out.suffix.lower() != f".{to}":
        raise UserError(f"--out {out} must end in .{to}")
    model = find_model(cell, results)
    if out.exists() and out.samefile(model):
        raise UserError(f"--out {out} is the cell's own model: name another file")

    if to is Format.PACKED:
        from slimdiff.io import packed

        if packed.is_packed(model):
            raise UserError(f"{model} is packed already: copy it")
        packed.pack(model, out)
        print(f"{out}: {size(out.stat().st_size)}, {size(model.stat().st_size)} as safetensors")
        return

    from slimdiff.inference import export as exporting
    from slimdiff.inference.model import load

    load_plugins(plugin)
    with console().status(f"writing {out}"):
        loaded = load(model)
        write = exporting.write_onnx if to is Format.ONNX else exporting.write_safetensors
        description = write(out, loaded)
    print(f"{out}: {size(out.stat().st_size)}, inputs {', '.join(description['inputs'])}")
    if description["dequantized"]:
        print(f"{len(description['dequantized'])} quantized layers were written as the float weights they stand for")
    if to is Format.ONNX:
        difference = description["max_difference"]
        checked = "onnxruntime is not installed" if difference is None else f"{difference:.1g} of the largest output"
        print(f"{out.with_suffix('.json')}: what its inputs mean, and how a sampler is made of it")
        print(f"difference between ONNX Runtime and torch: {checked}")
