"""The model card of an exported folder: what was done to the network, its numbers, and how to sample it."""

import json
from collections.abc import Mapping
from typing import Any

from slimdiff.analysis.columns import COLUMNS

NUMBERS = (
    "params",
    "params_nonzero",
    "macs",
    "network_evaluations",
    "inference_ms_per_image",
    "inference_ms_per_image_batch_1",
    "speedup",
    "cpu_model",
    "gpu_model",
    "threads",
    "fid_indomain",
    "fid_indomain_floor",
    "kid",
    "precision",
    "recall",
    "class_accuracy",
    "n_samples",
)
PLAIN = """\
from diffusers import {pipeline}

images = {pipeline}.from_pretrained("FOLDER")(num_inference_steps={steps}).images"""
LABELLED = """\
import torch
from diffusers import {scheduler}, UNet2DModel

unet = UNet2DModel.from_pretrained("FOLDER", subfolder="unet")
scheduler = {scheduler}.from_pretrained("FOLDER", subfolder="scheduler")
scheduler.set_timesteps({steps})
labels = torch.arange({classes})
x = torch.randn(len(labels), unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, labels).sample, t, x).prev_sample"""


def write_card(header: Mapping[str, Any], row: Mapping[str, Any] | None, licence: str, version: str) -> str:
    """Return the text of README.md.

    Args:
        header: of the cell's model.
        row: of the matrix; None: the cell has none, so the card has no numbers.
        licence: a key of the Hub, such as mit.
        version: of slimdiff.
    """
    sampler, training = header["sampler"], header["training"]
    ddim = sampler["method"] == "ddim"
    scheduler, pipeline = ("DDIMScheduler", "DDIMPipeline") if ddim else ("DDPMScheduler", "DDPMPipeline")
    classes = header["model"]["network"]["classes"]
    sampled = f"{sampler['method']}, {sampler.get('steps')} steps"
    guidance = f", guidance {sampler['guidance']:g}" if classes and sampler.get("guidance", 1.0) != 1.0 else ""
    use = (LABELLED if classes else PLAIN).format(
        pipeline=pipeline, scheduler=scheduler, steps=sampler.get("steps"), classes=classes
    )
    lines = [
        "---",
        f"license: {json.dumps(licence)}",
        "library_name: diffusers",
        "pipeline_tag: unconditional-image-generation",
        "tags: [slimdiff]",
        "---",
        "",
        f"# {_title(header, row)}",
        "",
        f"A UNet2DModel of diffusers, made and measured by slimdiff {version}.",
        "",
        "## What was done",
        "",
        *[f"- {line}" for line in _history(header, row)],
        f"- Sampled for the numbers below: {sampled}{guidance}, seed {header['seed']}.",
        f"- Parametrization: {training['preconditioning']}; pixels from -1 (black) to 1 (white).",
        "",
        "## Use",
        "",
        "```python",
        use,
        "```",
        "",
    ]
    if sampler["method"] not in ("ddpm", "ddim") or guidance:
        lines += [
            f"The scheduler of the folder is a {scheduler}; {sampled}{guidance} is slimdiff's own sampler.",
            "",
        ]
    lines += ["## Numbers", "", *_numbers(row), ""]
    return "\n".join(lines)


def _title(header: Mapping[str, Any], row: Mapping[str, Any] | None) -> str:
    name = header["dataset"]["name"]
    return f"{row['model']}, {row['optimization']}, on {name}" if row else f"A slimmed model of {name}"


def _history(header: Mapping[str, Any], row: Mapping[str, Any] | None) -> list[str]:
    """Return where the weights are from and what changed them, in order."""
    lines = []
    if pretrained := header.get("pretrained"):
        lines.append(f"Weights of `{pretrained['source']}`, SHA-256 {pretrained['sha256']}.")
    settings = json.loads(row["settings"]) if row else {}
    trainings = [*settings.get("starts", []), *([settings["train"]] if settings else [])]
    for training in trainings:
        for step in training.get("steps", []):
            lines.append(f"Before training on: `{json.dumps(step)}`.")
        hook = f", with `{json.dumps(training['hook'])}`" if "hook" in training else ""
        if epochs := training["training"]["epochs"]:
            lines.append(f"Trained for {epochs:g} epochs of {training['dataset']}{hook}.")
    lines.append(f"Data: {header['dataset']['name']}, training images of SHA-256 {header['dataset']['sha256']}.")
    lines.append(f"{'Averaged (EMA)' if header['weights'] == 'ema' else 'Raw'} weights.")
    lines += [f"Then: `{json.dumps(step)}`." for step in header["steps"]]
    return lines


def _numbers(row: Mapping[str, Any] | None) -> list[str]:
    """Return the lines of a table of measurements."""
    if row is None:
        return ["None: the cell had no row when it was exported."]
    columns = {column.name: column for column in COLUMNS}
    lines = ["| measure | value | meaning |", "|---|---|---|"]
    for name in NUMBERS:
        value = row.get(name)
        if value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            unit = f" {columns[name].unit}" if columns[name].unit else ""
            lines.append(f"| {name} | {shown}{unit} | {columns[name].meaning} |")
    return lines
