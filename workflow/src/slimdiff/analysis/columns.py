"""The columns of the matrix: one list for rows, the Parquet file, the JSON schema and the reference page.

Standard library only, because the stage `row` runs once per cell.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Dtype = Literal["string", "boolean", "Int64", "Float64"]
# How means over seeds are taken: of logarithms (quantities above 0), of shares (0 to 1), or of differences.
Scale = Literal["log", "share", "plain"]

# Python types of a value, and their name in messages. bool is a subclass of int and gets its own check.
_ACCEPTED: dict[Dtype, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "a string"),
    "boolean": ((bool,), "true or false"),
    "Int64": ((int,), "an integer"),
    "Float64": ((int, float), "a finite number"),
}
_JSON_TYPE: dict[Dtype, str] = {"string": "string", "boolean": "boolean", "Int64": "integer", "Float64": "number"}


@dataclass(frozen=True)
class Column:
    """One column of a table of records."""

    name: str
    dtype: Dtype
    unit: str  # empty: a name, a count, a ratio or a share
    meaning: str  # one line for people; also in the schema and the Parquet file
    source: str = ""  # record with the value under the same name; empty: set by the stage row
    required: bool = False  # not null
    scale: Scale = "log"


def _identity(name: str, meaning: str, dtype: Dtype = "string") -> Column:
    return Column(name, dtype, "", meaning, source="cell", required=True)


STATUSES = ("ok", "failed")
KEY = ("dataset", "model", "optimization", "seed")  # identifies a row, and its folder below results/cells/

COLUMNS: tuple[Column, ...] = (
    _identity("dataset", "name of the data set in `datasets:`"),
    _identity("model", "name of the model in `models:`"),
    _identity("optimization", "name of the recipe in `optimizations:`"),
    _identity("training", "name of the training in `trainings:` that the recipe uses"),
    _identity(
        "seed",
        "seed of training (of a pretrained model, of fine-tuning alone), and of pruning and sampling noise unless the "
        "recipe has its own",
        "Int64",
    ),
    Column("mask_seed", "Int64", "", "seed of random pruning and plugin steps; null without either", "cell"),
    Column("sampling_seed", "Int64", "", "seed of the sampling noise", "cell"),
    Column("sampler", "string", "", "sampling method of the scored images, such as heun or ddim"),
    _identity("engine", "software that runs the network: torch, torch-compile, openvino or onnxruntime"),
    Column(
        "engine_precision", "string", "", "number format of weights and graph in the engine: fp32, bf16 or int8", "cell"
    ),
    Column("status", "string", "", "ok, or failed with a `reason`", required=True),
    Column("reason", "string", "", "first failed stage and its message; null if ok"),
    Column("params", "Int64", "", "parameters of the network", "profile"),
    Column("params_nonzero", "Int64", "", "parameters that are not zero", "profile"),
    Column("macs", "Int64", "", "multiply-accumulates of one network evaluation of one image", "profile"),
    Column("macs_per_image", "Int64", "", "multiply-accumulates of all evaluations of one sampled image", "profile"),
    Column("size_bytes", "Int64", "bytes", "size of the checkpoint, model.safetensors", "profile"),
    Column(
        "size_gzip_bytes", "Int64", "bytes", "size of the checkpoint after gzip, as the paper measures it", "profile"
    ),
    Column("size_packed_bytes", "Int64", "bytes", "size of the losslessly packed checkpoint, model.packed", "profile"),
    Column("train_ms_per_epoch", "Float64", "ms", "mean duration of a training epoch; null if pretrained", "train"),
    Column("train_s", "Float64", "s", "duration of the training and all that it starts from, in this run", "train"),
    Column("finetune_s", "Float64", "s", "part of train_s after the first training", "train"),
    Column(
        "inference_ms_per_image",
        "Float64",
        "ms",
        "median sampling time per image at batch_size, over repeated runs",
        "profile",
    ),
    Column(
        "inference_ms_per_image_iqr",
        "Float64",
        "ms",
        "interquartile range of inference_ms_per_image over the runs",
        "profile",
    ),
    Column(
        "inference_ms_per_image_batch_1",
        "Float64",
        "ms",
        "median sampling time of a single image, over repeated runs",
        "profile",
    ),
    Column(
        "inference_ms_per_image_batch_1_iqr",
        "Float64",
        "ms",
        "interquartile range of inference_ms_per_image_batch_1 over the runs",
        "profile",
    ),
    Column(
        "speedup",
        "Float64",
        "",
        "the baseline's time per image / this cell's, both timed interleaved: median over rounds",
        "profile",
    ),
    Column("speedup_low", "Float64", "", "smallest speedup of a round", "profile"),
    Column("speedup_high", "Float64", "", "largest speedup of a round", "profile"),
    Column("speedup_batch_1", "Float64", "", "speedup for a single image: median over rounds", "profile"),
    Column("speedup_batch_1_low", "Float64", "", "smallest speedup_batch_1 of a round", "profile"),
    Column("speedup_batch_1_high", "Float64", "", "largest speedup_batch_1 of a round", "profile"),
    Column(
        "other_cpu_pct",
        "Float64",
        "%",
        "share of the needed processor cores that other processes or the host took, of batches or of single images, "
        "whichever is larger; null if unknown",
        "profile",
        scale="plain",
    ),
    Column(
        "disturbed",
        "boolean",
        "",
        "whether other_cpu_pct is above 10 or other_gpu_processes above 0, so that the profile's times do not count; "
        "null if unknown: they decide nothing",
        "profile",
    ),
    Column(
        "other_gpu_processes",
        "Int64",
        "",
        "most other processes on the profile's GPU at once; null on a CPU and if unknown",
        "profile",
        scale="plain",
    ),
    Column("batch_size", "Int64", "", "images per batch in inference_ms_per_image", "profile"),
    Column(
        "sampling_batch_size",
        "Int64",
        "",
        "images per batch of the scored samples; below the configured number if memory ran out, above it if filled",
        "score",
    ),
    Column("network_evaluations", "Float64", "", "network evaluations per sampled image", "score"),
    Column(
        "peak_memory_bytes",
        "Int64",
        "bytes",
        "peak memory of the profiled sampling run: allocated on a GPU, resident on a CPU",
        "profile",
    ),
    Column("gpu_allocated_bytes", "Int64", "bytes", "peak of the run's tensors on the GPU; null on a CPU", "profile"),
    Column("gpu_reserved_bytes", "Int64", "bytes", "peak that torch reserved for them on the GPU", "profile"),
    Column(
        "gpu_process_bytes",
        "Int64",
        "bytes",
        "the process's GPU memory after the run, CUDA's own included; null if unknown",
        "profile",
    ),
    Column(
        "energy_j_per_image",
        "Float64",
        "J",
        "energy of the whole device per sampled image at batch_size, by a counter; null without one",
        "profile",
    ),
    Column("energy_source", "string", "", "counter: nvml, of the GPU; or rapl, of the processor packages", "profile"),
    Column("timed_kernels", "string", "", "choice of the CUDA kernels that are timed: autotuned", "profile"),
    Column("trained_kernels", "string", "", "choice of the CUDA kernels that trained: deterministic", "train"),
    Column("compile_s", "Float64", "s", "duration of compilation without a cache and of the first run", "profile"),
    Column("load_s", "Float64", "s", "duration from the file to a network that is ready to compile or run", "profile"),
    Column(
        "output_error",
        "Float64",
        "",
        "norm of the output's difference from torch in float32 / norm of that output, on noisy real images",
        "profile",
    ),
    Column(
        "denoising_loss",
        "Float64",
        "",
        "training loss on test images; not comparable across preconditionings or noise levels of training",
        "profile",
    ),
    Column("denoising_loss_low", "Float64", "", "denoising_loss over the lowest third of the noise levels", "profile"),
    Column(
        "denoising_loss_middle", "Float64", "", "denoising_loss over the middle third of the noise levels", "profile"
    ),
    Column(
        "denoising_loss_high", "Float64", "", "denoising_loss over the highest third of the noise levels", "profile"
    ),
    Column(
        "fid_indomain",
        "Float64",
        "",
        "Fréchet distance to the training images in features of small classifiers of them, mean over these extractors",
        "score",
    ),
    Column(
        "fid_indomain_pct",
        "Float64",
        "%",
        "100 · fid_indomain / trace of the covariance of the training images, mean over extractors",
        "score",
    ),
    Column(
        "fid_indomain_floor",
        "Float64",
        "",
        "fid_indomain of n_samples test images of the samples' classes (fewer if there are), mean over disjoint draws",
        "score",
    ),
    Column("fid_indomain_floor_pct", "Float64", "%", "fid_indomain_pct of the same test images", "score"),
    Column("fid_indomain_min", "Float64", "", "smallest Fréchet distance over the extractors", "score"),
    Column("fid_indomain_max", "Float64", "", "largest Fréchet distance over the extractors", "score"),
    Column(
        "fid_indomain_sampling_sd",
        "Float64",
        "",
        "bootstrap standard deviation of fid_indomain over draws of images, without that of training",
        "score",
    ),
    Column(
        "fid_foreign",
        "Float64",
        "",
        "Fréchet distance to the training images in features of another data set's classifiers, mean over these",
        "score",
    ),
    Column("n_samples", "Int64", "", "scored images", "score"),
    Column("fid_inception", "Float64", "", "Fréchet distance in Inception features (FID)", "score"),
    Column(
        "fid_paper",
        "Float64",
        "",
        "Fréchet distance as the paper computes it: Inception features of images that are normalized twice",
        "score",
    ),
    Column("kid", "Float64", "", "kernel distance (KID) in scaled features, mean over extractors", "score"),
    Column(
        "mind",
        "Float64",
        "",
        "Monge Inception Distance, a sliced Wasserstein distance in scaled features, mean over extractors",
        "score",
    ),
    Column("precision", "Float64", "", "share of samples inside the manifold of real images", "score", scale="share"),
    Column("recall", "Float64", "", "share of real images inside the manifold of samples", "score", scale="share"),
    Column(
        "density",
        "Float64",
        "",
        "mean number of neighborhoods of real images that contain a sample, divided by the neighbors of each",
        "score",
    ),
    Column(
        "coverage", "Float64", "", "share of neighborhoods of real images that contain a sample", "score", scale="share"
    ),
    Column(
        "class_accuracy",
        "Float64",
        "",
        "share of samples that a classifier assigns to the requested class; null without classes",
        "score",
        scale="share",
    ),
    Column(
        "class_tv",
        "Float64",
        "",
        "total variation distance of the samples' classes from the requested ones, or from the training set's",
        "score",
        scale="share",
    ),
    Column(
        "low_confidence",
        "Float64",
        "",
        "share of samples whose most likely class has a probability below 0.9",
        "score",
        scale="share",
    ),
    Column(
        "memorization_p",
        "Float64",
        "",
        "p-value of the hypothesis that samples are no closer to training images than test images are",
        "score",
        scale="share",
    ),
    Column(
        "nearest_ratio",
        "Float64",
        "",
        "median distance of samples to their nearest training image / that of test images",
        "score",
    ),
    Column(
        "copy_share",
        "Float64",
        "",
        "share of samples less than a third as far from their nearest training image as from the second nearest",
        "score",
        scale="share",
    ),
    Column(
        "psnr",
        "Float64",
        "dB",
        "peak signal-to-noise ratio to the baseline's images from the same noise, mean; null where the noise differs",
        "score",
        scale="plain",
    ),
    Column(
        "ssim",
        "Float64",
        "",
        "structural similarity to the baseline's images from the same noise, mean; null where the noise differs",
        "score",
        scale="plain",
    ),
    Column(
        "test_images_in_training",
        "Int64",
        "",
        "test images that are exact copies of training images: they lower the floor and blunt memorization_p",
        "score",
    ),
    Column("device", "string", "", "device of the profile", "profile"),
    Column("cpu_model", "string", "", "processor of the profile", "profile"),
    Column("gpu_model", "string", "", "GPU of the profile", "profile"),
    Column("torch_version", "string", "", "torch version of the profile", "profile"),
    Column("threads", "Int64", "", "CPU threads of the profile", "profile"),
    Column("code", "string", "", "fingerprints of the code of the measuring stages, as JSON"),
    Column("settings", "string", "", "resolved settings of the cell, as JSON"),
    Column("started_at", "string", "", "start of the training, ISO 8601", "train"),
)

# The paper's numbers, workflow/resources/paper_reference.csv.
PAPER_COLUMNS: tuple[Column, ...] = (
    Column("table", "string", "", "table of the paper; S marks a section without a table", required=True),
    Column("section", "string", "", "section that prints the number", required=True),
    Column("model", "string", "", "family of the network", required=True),
    Column("label", "string", "", "the paper's name of the technique", required=True),
    Column("optimization", "string", "", "the recipe in `optimizations:`", required=True),
    Column("size_bytes", "Int64", "bytes", "size of the compressed state dictionary"),
    Column("inference_ms", "Float64", "ms", "sampling time per image"),
    Column("fid", "Float64", "", "Fréchet distance in Inception features of images that are normalized twice"),
    Column("train_ms_per_epoch", "Float64", "ms", "duration of a training epoch, as printed"),
    Column("samples", "Int64", "", "images in the timed run"),
    Column("total_ms", "Float64", "ms", "duration of the timed run"),
    Column("approximate", "string", "", "columns printed with a tilde or elsewhere, joined by ;"),
    Column("note", "string", "", "contradictions of the paper with itself"),
)

# Former names of columns of the matrix, for messages.
RENAMED_COLUMNS = {
    "fid": "fid_indomain",
    "rfid": "fid_indomain_pct",
    "fid_min": "fid_indomain_min",
    "fid_max": "fid_indomain_max",
    "fid_sampling_sd": "fid_indomain_sampling_sd",
    "fid_floor": "fid_indomain_floor",
    "rfid_floor": "fid_indomain_floor_pct",
    "fid_report": "fid_paper",
}
SCALES: dict[str, Scale] = {column.name: column.scale for column in COLUMNS}


def check(record: Mapping[str, Any], columns: Sequence[Column] = COLUMNS) -> str | None:
    """Return the first violation of `columns` by `record`, or None: exactly these names, each of its type or null."""
    expected = [column.name for column in columns]
    missing = [name for name in expected if name not in record]
    if missing:
        return f"column {missing[0]!r} is missing"
    unknown = sorted(set(record) - set(expected))
    if unknown:
        return f"unknown column {unknown[0]!r}"
    for column in columns:
        value = record[column.name]
        if value is None:
            if column.required:
                return f"{column.name} must not be null"
            continue
        types, wanted = _ACCEPTED[column.dtype]
        if (
            not isinstance(value, types)
            or (isinstance(value, bool) and column.dtype != "boolean")
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            return f"{column.name} must be {wanted} or null, not {value!r}"
    return None


def check_row(row: Mapping[str, Any]) -> str | None:
    """Return the first error of a row of the matrix, or None: `check`, and a reason if and only if the cell failed."""
    problem = check(row)
    if problem:
        return problem
    if row["status"] not in STATUSES:
        return f"status must be one of {', '.join(STATUSES)}, not {row['status']!r}"
    if (row["status"] == "failed") != bool(row["reason"]):
        return f"status {row['status']!r} does not go with reason {row['reason']!r}"
    return None


def schema(columns: Sequence[Column], title: str) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a record with exactly `columns`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "additionalProperties": False,
        "required": [column.name for column in columns],
        "properties": {
            column.name: {
                "type": _JSON_TYPE[column.dtype] if column.required else [_JSON_TYPE[column.dtype], "null"],
                "description": f"{column.meaning} [{column.unit}]" if column.unit else column.meaning,
            }
            for column in columns
        },
    }


def row_schema() -> dict[str, Any]:
    """Return the JSON schema of a row of the matrix: workflow/schemas/row.schema.json."""
    document = schema(COLUMNS, "One cell of the matrix")
    document["properties"]["status"]["enum"] = list(STATUSES)
    document["properties"]["reason"]["minLength"] = 1
    failed = {"properties": {"status": {"const": "failed"}}}
    document |= {
        "if": failed,
        "then": {"properties": {"reason": {"type": "string"}}},
        "else": {"properties": {"reason": {"type": "null"}}},
    }
    return document


def paper_schema() -> dict[str, Any]:
    """Return the JSON schema of a row of the paper's numbers: workflow/schemas/paper.schema.json."""
    return schema(PAPER_COLUMNS, "One row of the paper's tables")


def write_schemas(folder: Path) -> None:
    """Write row.schema.json and paper.schema.json into `folder`."""
    for name, document in (("row", row_schema()), ("paper", paper_schema())):
        text = json.dumps(document, indent=2, ensure_ascii=False)
        (folder / f"{name}.schema.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
