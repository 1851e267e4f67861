"""What the report shows, as data: each table and figure is one entry here.

Standard library only, so that rules may take the output names from here.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One measured quantity in a table: ours, the report's beside it, and how far each is from its reference."""

    column: str  # of the matrix
    heading: str
    decimals: int
    paper: str = ""  # the report's column of like meaning; empty: it has none
    change: bool = True  # show the change against the reference recipe
    interval: bool = False  # show the confidence interval of the mean
    share: bool = False  # it lies between 0 and 1, and people read it in percent
    meaning: str = ""  # a sentence for people, where the heading is not enough


FID = Measure("fid_indomain", "FID", 2, paper="fid", interval=True)
RFID = Measure("fid_indomain_pct", "rFID (%)", 2, change=False)
FLOOR = Measure("fid_indomain_floor", "FID, test set", 2, change=False)
SIZE = Measure("size_gzip_bytes", "gzip size (bytes)", 0, paper="size_bytes")
LATENCY = Measure("inference_ms_per_image", "ms per image", 2, paper="inference_ms")
EVALUATIONS = Measure("network_evaluations", "network evaluations", 1, change=False)
TRAINING = Measure("train_ms_per_epoch", "training, ms per epoch", 0, paper="train_ms_per_epoch")
ACCURACY = Measure(
    "class_accuracy",
    "class accuracy (%)",
    3,
    change=False,
    share=True,
    meaning="Class accuracy is the share of images that a classifier of real images recognizes as the class asked for; "
    "an unconditional model has none, and the report gives none.",
)
TECHNIQUE = (FID, RFID, FLOOR, SIZE, LATENCY, TRAINING)
CONDITIONAL = (FID, RFID, FLOOR, ACCURACY, SIZE, LATENCY, TRAINING)


@dataclass(frozen=True)
class TableSpec:
    """A table of the report with our numbers beside it.

    For each of `families` it has the reference recipe, the report's lines for that family, then `extra`.
    """

    name: str  # of the files, without suffix
    title: str
    families: tuple[str, ...]  # of the models it is about; each has a reference of its own
    paper_table: str  # in the column `table` of the report's numbers
    kind: str = "other"  # of its recipes, where the config does not say (comparison.kind)
    measures: tuple[Measure, ...] = TECHNIQUE
    reference: str = "baseline"  # recipe that changes are counted from
    reference_table: str = "S4.1"  # where the report prints it
    extra: tuple[tuple[str, str], ...] = ()  # further recipes of ours, each with a remark


@dataclass(frozen=True)
class FigureSpec:
    """A figure of numbers.

    One of techniques has the lines of `tables`, then what else the matrix holds of the families of the first.
    """

    name: str
    title: str
    kind: Literal["techniques", "beside", "pareto", "sensitivity", "sparsity", "guidance"]
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Images of one cell for each data set and model of a family: the first of `recipes` that the matrix holds."""

    family: str
    recipes: tuple[str, ...]


@dataclass(frozen=True)
class GallerySpec:
    """A figure of samples: for each data set and model the panels of its family."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    by_class: bool = False  # a column for each class instead of the first images


@dataclass(frozen=True)
class CostSpec:
    """A cost that the page's chart of FID can be drawn against."""

    column: str  # of `plots.recipes`
    label: str  # of its button
    axis: str


_NO_NUMBER = "among the settings in the report's text, which prints no number"
_AFTER = "not in the report: trained in float, quantized after"
_OPTIMIZER = "not in the report: only the optimizer has 8 bits"

TABLES: tuple[TableSpec, ...] = (
    TableSpec(
        "table-1",
        "Table 1: quantization of the NCSN",
        ("ncsn",),
        "1",
        "quantized",
        extra=(
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
        reference_table="4",
    ),
    TableSpec(
        "table-5",
        "Table 5: quantization of the DDPM",
        ("ddpm",),
        "5",
        "quantized",
        measures=CONDITIONAL,
        reference_table="4",
        extra=(
            ("ema+linear-8bit-frozen", "the report says that it gave only black images, and prints no number"),
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
        reference_table="4",
    ),
    TableSpec(
        "table-7",
        "Table 7: grouped convolutions in the DDPM",
        ("ddpm",),
        "7",
        "grouped",
        measures=CONDITIONAL,
        reference_table="4",
    ),
    TableSpec(
        "table-8",
        "Table 8: grouped convolutions in the DDPM, pruned",
        ("ddpm",),
        "8",
        "several",
        measures=CONDITIONAL,
        reference_table="4",
    ),
    TableSpec(
        "table-9",
        "Table 9: base against best, NCSN and DDPM",
        ("ncsn", "ddpm"),
        "9",
        measures=CONDITIONAL,
        reference_table="9",
    ),
    TableSpec(
        "samplers",
        "Section 3.2.1: samplers of the NCSN",
        ("ncsn",),
        "S3.2.1",
        "sampler",
        measures=(LATENCY, EVALUATIONS, replace(FID, paper=""), RFID),
        reference="sampler-euler-maruyama",
        reference_table="S3.2.1",
        extra=(
            ("sampler-heun", "not in the report"),
            ("baseline", "the sampler that every other cell is scored with"),
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
    FigureSpec("beside-report", "Change of FID against the baseline, ours beside the report's", "beside"),
    FigureSpec("pareto", "Size against FID", "pareto"),
    FigureSpec("sensitivity", "FID over the U, one module pruned at a time", "sensitivity"),
    FigureSpec("sparsity", "FID over the share of zeros", "sparsity"),
    FigureSpec("guidance", "FID over guidance", "guidance"),
)

_BEST_DDPM = "groups-2+l1-10"  # in the report

GALLERIES: tuple[GallerySpec, ...] = (
    GallerySpec(
        "figure-5",
        "Base against best, both families",
        (
            Panel("ncsn", ("baseline",)),
            Panel("ncsn", ("groups-2",)),
            Panel("ddpm", ("baseline",)),
            Panel("ddpm", (_BEST_DDPM,)),
        ),
    ),
    GallerySpec("figure-6", "Labelled samples", (Panel("ddpm", (_BEST_DDPM, "baseline")),), by_class=True),
)

TIMELINE = "timeline"  # the figure of jobs: it is drawn from benchmark records, not from the matrix
TIMELINE_TITLE = "What ran when, and for how long"

COSTS: tuple[CostSpec, ...] = (
    CostSpec("size_mb", "file size", "compressed checkpoint (MB, gzip)"),
    CostSpec("inference_ms_per_image", "latency", "time per image (ms)"),
    CostSpec("gmacs", "arithmetic", "multiply-accumulates per image (billions)"),
)
# The page holds pictures of so many cells (every recipe's first seed before any second), within so many bytes as text.
MOST_PICTURED = 120
MOST_PICTURE_BYTES = 6_000_000
PICTURE_IMAGES = 40  # of each cell
PICTURE_PX = 64  # longer side of an image; larger ones are shrunk
MOST_CURVES = 60  # loss curves that the page draws
PAGE_ASSETS = ("page.html", "page.css", "page.js")  # in analysis/assets; a change of one writes the page anew

CELLS = "cells"  # the table of everything, one line per cell
SUMMARIES = ("claims", "differences", "beside-report", "proxies")  # tables of all recipes and all claims
TABLE_NAMES = (*SUMMARIES, *(table.name for table in TABLES), CELLS)
FIGURE_NAMES = (*(figure.name for figure in FIGURES), *(gallery.name for gallery in GALLERIES), TIMELINE)
TABLE_FORMATS = ("csv", "md")
FIGURE_FORMATS = ("svg", "png", "html")
