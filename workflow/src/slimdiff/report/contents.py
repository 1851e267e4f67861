"""The contents of the report: each table and figure is one entry.

Standard library only, because the rules take the names of their outputs from here.
"""

from dataclasses import dataclass, replace
from typing import Literal

from slimdiff.analysis.measures import (
    ACCURACY,
    COST_MEASURES,
    COVERAGE,
    EVALUATIONS,
    FID,
    FID_PCT,
    KID,
    LATENCY,
    LIKENESS,
    QUALITY,
    SAMPLER_BASELINE,
    TIME,
    TableSpec,
)

CONDITIONAL = (*QUALITY, ACCURACY, *LIKENESS, *COST_MEASURES)


@dataclass(frozen=True)
class FigureSpec:
    """A figure of numbers.

    The kind "techniques" shows the lines of `tables`, then all other recipes of the first table's families.
    """

    name: str
    title: str
    kind: Literal["techniques", "versus-paper", "pareto", "sensitivity", "sparsity", "guidance"]
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Samples of one cell per data set and model of a family: the first of `recipes` in the matrix."""

    family: str
    recipes: tuple[str, ...]


@dataclass(frozen=True)
class GallerySpec:
    """A figure of samples: the panels of its family for each data set and model."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    by_class: bool = False  # one column per class instead of the first images


@dataclass(frozen=True)
class CostSpec:
    """A cost axis of the page's chart of FID."""

    column: str  # of `figures.pareto.recipes`
    label: str  # on the button
    axis: str


_NO_NUMBER = "a setting in the paper's text, without a number"
_FROZEN = "another reading of the paper: quantized and frozen from the start, with 8-bit weights in the file"
_BLACK = "the paper says that it generated only black images, and prints no number"
_AFTER = "not in the paper: trained in float, then quantized"
_OPTIMIZER = "not in the paper: only the optimizer has 8 bits"

TABLES: tuple[TableSpec, ...] = (
    TableSpec(
        "table-1",
        "Table 1: quantization of the NCSN",
        ("ncsn",),
        "1",
        "quantized",
        extra=(
            ("linear-8bit-frozen", _FROZEN),
            ("linear-8bit-frozen+adam-8bit", _FROZEN),
            ("linear-4bit", _AFTER),
            ("linear-8bit", _AFTER),
            ("adam-8bit", _OPTIMIZER),
        ),
    ),
    TableSpec(
        "table-2",
        "Table 2: pruning of the NCSN",
        ("ncsn",),
        "2",
        "pruned",
        extra=(("random-70", _NO_NUMBER), ("l1-50", _NO_NUMBER)),
    ),
    TableSpec("table-3", "Table 3: grouped convolutions in the NCSN", ("ncsn",), "3", "grouped"),
    TableSpec(
        "table-4",
        "Table 4: baselines of the DDPM",
        ("ddpm",),
        "4",
        "EMA",
        measures=CONDITIONAL,
        baseline_table="4",
    ),
    TableSpec(
        "table-5",
        "Table 5: quantization of the DDPM",
        ("ddpm",),
        "5",
        "quantized",
        measures=CONDITIONAL,
        baseline_table="4",
        extra=(
            ("ema+linear-8bit-mixed-sampled", f"float weights and int8 products, sampled while it trained; {_BLACK}"),
            ("ema+linear-8bit-mixed", "float weights and int8 products, sampled after training only"),
            ("linear-8bit-frozen", _FROZEN),
            ("linear-8bit-frozen+adam-8bit", _FROZEN),
            ("ema+linear-8bit-frozen", f"{_FROZEN}; {_BLACK}"),
            ("linear-8bit", _AFTER),
            ("linear-4bit", _AFTER),
            ("ema+linear-8bit", _AFTER),
            ("adam-8bit", _OPTIMIZER),
        ),
    ),
    TableSpec(
        "table-6",
        "Table 6: pruning of the DDPM",
        ("ddpm",),
        "6",
        "pruned",
        measures=CONDITIONAL,
        baseline_table="4",
    ),
    TableSpec(
        "table-7",
        "Table 7: grouped convolutions in the DDPM",
        ("ddpm",),
        "7",
        "grouped",
        measures=CONDITIONAL,
        baseline_table="4",
    ),
    TableSpec(
        "table-8",
        "Table 8: grouped convolutions in the DDPM, pruned",
        ("ddpm",),
        "8",
        "several",
        measures=CONDITIONAL,
        baseline_table="4",
    ),
    TableSpec(
        "table-9",
        "Table 9: base against best, NCSN and DDPM",
        ("ncsn", "ddpm"),
        "9",
        measures=CONDITIONAL,
        baseline_table="9",
    ),
    TableSpec(
        "samplers",
        "Section 3.2.1: samplers of the NCSN",
        ("ncsn",),
        "S3.2.1",
        "sampler",
        measures=(LATENCY, TIME, EVALUATIONS, replace(FID, paper=""), FID_PCT, KID, COVERAGE, *LIKENESS),
        baseline=SAMPLER_BASELINE,
        baseline_table="S3.2.1",
        extra=(
            ("sampler-heun", "not in the paper"),
            ("baseline", "the sampler of all other cells"),
        ),
    ),
)

FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("figure-1", "FID of each technique, NCSN", "techniques", ("table-1", "table-2", "table-3")),
    FigureSpec(
        "figure-2",
        "FID of each technique, DDPM",
        "techniques",
        ("table-4", "table-5", "table-6", "table-7", "table-8"),
    ),
    FigureSpec("versus-paper", "FID relative to the baseline, ours and the paper's", "versus-paper"),
    FigureSpec("pareto", "Size against FID", "pareto"),
    FigureSpec("sensitivity", "FID with one module pruned at a time", "sensitivity"),
    FigureSpec("sparsity", "FID over sparsity", "sparsity"),
    FigureSpec("guidance", "FID over guidance scale", "guidance"),
)

_BEST_DDPM = "groups-2+l1-10"  # in the paper

GALLERIES: tuple[GallerySpec, ...] = (
    GallerySpec(
        "figure-5",
        "Baseline and best model, both families",
        (
            Panel("ncsn", ("baseline",)),
            Panel("ncsn", ("groups-2",)),
            Panel("ddpm", ("baseline",)),
            Panel("ddpm", (_BEST_DDPM,)),
        ),
    ),
    GallerySpec("figure-6", "Samples by class", (Panel("ddpm", (_BEST_DDPM, "baseline")),), by_class=True),
)

TIMELINE = "timeline"  # figure of the jobs, from benchmark records
TIMELINE_TITLE = "Jobs over time"

COSTS: tuple[CostSpec, ...] = (
    CostSpec("size_mb", "file size", "compressed checkpoint (MB, gzip)"),
    CostSpec("inference_ms_per_image", "latency", "time per image (ms)"),
    CostSpec("gmacs", "arithmetic", "multiply-accumulates per image (billions)"),
)
# Limits of the page.
MAX_PICTURED_CELLS = 120  # the first seed of every recipe before any second seed
MAX_PICTURE_BYTES = 6_000_000  # as base64
PICTURE_IMAGES = 40  # per cell
PICTURE_PX = 64  # longer side of an image; larger images are shrunk
MAX_CURVES = 60  # loss curves
PAGE_ASSETS = ("page.html", "page.css", "page.js")  # in report/page/assets

CELLS = "cells"  # the table with one line per cell
SUMMARIES = ("claims", "differences", "versus-paper", "proxies", "variance")  # tables of all recipes and all claims
TABLE_NAMES = (*SUMMARIES, *(table.name for table in TABLES), CELLS)
FIGURE_NAMES = (*(figure.name for figure in FIGURES), *(gallery.name for gallery in GALLERIES), TIMELINE)
TABLE_FORMATS = ("csv", "md")
FIGURE_FORMATS = ("svg", "png", "html")
