"""The columns of the matrix: one constant list that the row stage, the Parquet file and the JSON schema share.

Standard library only, because the row stage runs once per cell.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Dtype = Literal["string", "Int64", "Float64"]

# JSON types a value may have, and what a person calls them. bool is a subclass of int and is refused apart.
_ACCEPTED: dict[Dtype, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "a string"),
    "Int64": ((int,), "an integer"),
    "Float64": ((int, float), "a finite number"),
}
_JSON_TYPE: dict[Dtype, str] = {"string": "string", "Int64": "integer", "Float64": "number"}


@dataclass(frozen=True)
class Column:
    """One column of a table of records."""

    name: str
    dtype: Dtype
    unit: str  # empty for names, counts and ratios
    meaning: str  # one line, read by people: the schema and the Parquet footer repeat it
    source: str = ""  # the stage record that holds the value under the same name; empty: worked out by the row stage
    required: bool = False  # null is refused


def _identity(name: str, meaning: str, dtype: Dtype = "string") -> Column:
    return Column(name, dtype, "", meaning, source="cell", required=True)


# How a cell ended: the values of the column `status`.
STATUSES = ("ok", "failed")

# Where a cell stands in the matrix, and under results/cells/.
KEY = ("dataset", "model", "optimization", "seed")

COLUMNS: tuple[Column, ...] = (
    _identity("dataset", "data set the model was trained on"),
    _identity("model", "named network in `models:`"),
    _identity("optimization", "named recipe in `optimizations:`"),
    _identity("training", "named training in `trainings:` that the recipe starts from"),
    _identity("seed", "seed of training, pruning and sampling noise", "Int64"),
    Column("sampler", "string", "", "method that drew the scored images"),
    _identity("engine", "what runs the network"),
    Column("engine_precision", "string", "", "of the network's weights and graph: fp32, bf16, int8", "cell"),
    Column("status", "string", "", "ok, or failed for the reason given", required=True),
    Column("reason", "string", "", "first stage that failed, and why"),
    Column("params", "Int64", "", "parameters of the network as built", "profile"),
    Column("params_nonzero", "Int64", "", "parameters that are not zero", "profile"),
    Column("macs", "Int64", "", "multiply-accumulates of one network evaluation of one image", "profile"),
    Column("macs_per_image", "Int64", "", "multiply-accumulates of drawing one image, all evaluations", "profile"),
    Column("size_bytes", "Int64", "bytes", "checkpoint as written", "profile"),
    Column("size_gzip_bytes", "Int64", "bytes", "checkpoint after gzip, the report's measure", "profile"),
    Column("size_packed_bytes", "Int64", "bytes", "the same checkpoint packed without loss, model.packed", "profile"),
    Column("train_ms_per_epoch", "Float64", "ms", "mean time of a training epoch", "train"),
    Column("train_s", "Float64", "s", "time of the whole training, with those that it starts from", "train"),
    Column("finetune_s", "Float64", "s", "the part of train_s that came after the first training", "train"),
    Column("inference_ms_per_image", "Float64", "ms", "median time per image of a full sampling run", "profile"),
    Column("inference_ms_per_image_iqr", "Float64", "ms", "interquartile range of the same", "profile"),
    Column("inference_ms_per_image_batch_1", "Float64", "ms", "median time per image, one at a time", "profile"),
    Column("inference_ms_per_image_batch_1_iqr", "Float64", "ms", "interquartile range of the same", "profile"),
    Column("speedup", "Float64", "", "reference's time per image / this cell's, median of rounds in turns", "profile"),
    Column("speedup_low", "Float64", "", "least of the rounds", "profile"),
    Column("speedup_high", "Float64", "", "greatest of the rounds", "profile"),
    Column("speedup_batch_1", "Float64", "", "the same as speedup, one image at a time", "profile"),
    Column("speedup_batch_1_low", "Float64", "", "least of the rounds", "profile"),
    Column("speedup_batch_1_high", "Float64", "", "greatest of the rounds", "profile"),
    Column("batch_size", "Int64", "", "images per batch in inference_ms_per_image", "profile"),
    Column("sampling_batch_size", "Int64", "", "images drawn at once; fewer than asked where memory ran out", "score"),
    Column("network_evaluations", "Float64", "", "network evaluations per image", "score"),
    Column("peak_memory_bytes", "Int64", "bytes", "peak memory of the profiled sampling run", "profile"),
    Column("compile_s", "Float64", "s", "time the engine took to compile, nothing cached, and to run once", "profile"),
    Column("load_s", "Float64", "s", "time from the file to a network that is ready to compile or run", "profile"),
    Column(
        "output_error",
        "Float64",
        "",
        "norm of the network's error against itself in torch and float32 / norm of that output, on real noised images",
        "profile",
    ),
    Column(
        "denoising_loss",
        "Float64",
        "",
        "the training's own loss per test image at equally likely noise levels; no comparison across preconditionings",
        "profile",
    ),
    Column("denoising_loss_low", "Float64", "", "the same over the lowest third of the noise levels", "profile"),
    Column("denoising_loss_middle", "Float64", "", "the same over the middle third", "profile"),
    Column("denoising_loss_high", "Float64", "", "the same over the highest third", "profile"),
    Column("fid_indomain", "Float64", "", "in-domain Fréchet distance, mean of the extractors", "score"),
    Column("fid_indomain_min", "Float64", "", "the smallest of the extractors' Fréchet distances", "score"),
    Column("fid_indomain_max", "Float64", "", "the largest of them", "score"),
    Column(
        "fid_indomain_sampling_sd",
        "Float64",
        "",
        "standard deviation of fid_indomain from the draw of the images alone, by bootstrap; not from training",
        "score",
    ),
    Column(
        "fid_indomain_pct",
        "Float64",
        "%",
        "100 · fid_indomain / trace of the real covariance, mean of the extractors",
        "score",
    ),
    Column(
        "fid_indomain_floor",
        "Float64",
        "",
        "fid_indomain of n_samples real test images, or of all of them if fewer: mean over disjoint draws",
        "score",
    ),
    Column("fid_indomain_floor_pct", "Float64", "%", "fid_indomain_pct of the same test images", "score"),
    Column("n_samples", "Int64", "", "images scored", "score"),
    Column("fid_inception", "Float64", "", "Fréchet distance in Inception features", "score"),
    Column("fid_paper", "Float64", "", "Fréchet distance as the report computed it", "score"),
    Column("kid", "Float64", "", "kernel distance in scaled features, mean of the extractors", "score"),
    Column("precision", "Float64", "", "share of samples inside the real manifold", "score"),
    Column("recall", "Float64", "", "share of real images inside the samples' manifold", "score"),
    Column("density", "Float64", "", "mean count of real neighbourhoods around a sample, scaled", "score"),
    Column("coverage", "Float64", "", "share of real neighbourhoods that hold a sample", "score"),
    Column("class_accuracy", "Float64", "", "share of samples that the judge takes for the class asked for", "score"),
    Column(
        "class_tv",
        "Float64",
        "",
        "total variation distance between the classes that the judge sees and those asked for, or the training set's",
        "score",
    ),
    Column("low_confidence", "Float64", "", "share of samples whose likeliest class gets less than 0.9", "score"),
    Column(
        "memorization_p",
        "Float64",
        "",
        "p-value of samples being no nearer to training images than test images are",
        "score",
    ),
    Column(
        "nearest_ratio",
        "Float64",
        "",
        "median distance of samples to the nearest training image / of test images to theirs",
        "score",
    ),
    Column("device", "string", "", "device that was profiled", "profile"),
    Column("cpu_model", "string", "", "processor of that machine", "profile"),
    Column("gpu_model", "string", "", "GPU of that machine", "profile"),
    Column("torch_version", "string", "", "torch that was profiled", "profile"),
    Column("threads", "Int64", "", "CPU threads of the profiled run", "profile"),
    Column("code", "string", "", "JSON: fingerprint of the code of each measuring stage"),
    Column("settings", "string", "", "JSON: the cell's resolved settings"),
    Column("started_at", "string", "", "when the training began, ISO 8601", "train"),
)

# The report's numbers, workflow/resources/paper_reference.csv.
PAPER_COLUMNS: tuple[Column, ...] = (
    Column("table", "string", "", "table of the report; S marks a section without one", required=True),
    Column("section", "string", "", "section that prints the number", required=True),
    Column("model", "string", "", "family of the network", required=True),
    Column("label", "string", "", "technique as the report calls it", required=True),
    Column("optimization", "string", "", "the same recipe in our vocabulary", required=True),
    Column("size_bytes", "Int64", "bytes", "compressed state dictionary"),
    Column("inference_ms", "Float64", "ms", "time per image"),
    Column("fid", "Float64", "", "Fréchet distance in Inception features, input normalized twice"),
    Column("train_ms_per_epoch", "Float64", "ms", "time of a training epoch, as printed"),
    Column("samples", "Int64", "", "images in the timed run"),
    Column("total_ms", "Float64", "ms", "time of the timed run"),
    Column(
        "approximate",
        "string",
        "",
        "columns the report prints with a tilde, or that are printed elsewhere; joined by ;",
    ),
    Column("note", "string", "", "where the report contradicts itself"),
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


def check(record: Mapping[str, Any], columns: Sequence[Column] = COLUMNS) -> str | None:
    """What is wrong with `record`, or None: it must have exactly `columns`, each of its type or null."""
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
            or isinstance(value, bool)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            return f"{column.name} must be {wanted} or null, not {value!r}"
    return None


def check_row(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row of the matrix, or None: `check`, and a reason exactly where the cell failed."""
    problem = check(row)
    if problem:
        return problem
    if row["status"] not in STATUSES:
        return f"status must be one of {', '.join(STATUSES)}, not {row['status']!r}"
    if (row["status"] == "failed") != bool(row["reason"]):
        return f"status {row['status']!r} does not go with reason {row['reason']!r}"
    return None


def schema(columns: Sequence[Column], title: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one record with exactly `columns`."""
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
    """The JSON schema of a row of the matrix, as workflow/schemas/row.schema.json holds it."""
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
    """The JSON schema of a row of the report's numbers, as workflow/schemas/paper.schema.json holds it."""
    return schema(PAPER_COLUMNS, "One row of the report's tables")
