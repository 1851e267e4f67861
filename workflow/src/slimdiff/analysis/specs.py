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


FID = Measure("fid", "FID", 2, paper="fid", interval=True)
RFID = Measure("rfid", "rFID (%)", 2, change=False)
FLOOR = Measure("fid_floor", "FID, test set", 2, change=False)
SIZE = Measure("size_gzip_bytes", "gzip size (bytes)", 0, paper="size_bytes")
LATENCY = Measure("inference_ms_per_image", "ms per image", 2, paper="inference_ms")
EVALUATIONS = Measure("network_evaluations", "network evaluations", 1, change=False)
TRAINING = Measure("train_ms_per_epoch", "training, ms per epoch", 0, paper="train_ms_per_epoch")
TECHNIQUE = (FID, RFID, FLOOR, SIZE, LATENCY, TRAINING)


@dataclass(frozen=True)
class TableSpec:
    """A table of the report with our numbers beside it: the reference recipe, the report's lines, then `extra`."""

    name: str  # of the files, without suffix
    title: str
    family: str  # of the models it is about
    paper_table: str  # in the column `table` of the report's numbers
    kind: str = "other"  # of its recipes, where the config does not say (comparison.kind)
    measures: tuple[Measure, ...] = TECHNIQUE
    reference: str = "baseline"  # recipe that changes are counted from
    reference_table: str = "S4.1"  # where the report prints it
    extra: tuple[tuple[str, str], ...] = ()  # further recipes of ours, each with a remark


@dataclass(frozen=True)
class FigureSpec:
    """A figure. One of techniques has the lines of `tables`, then whatever else the matrix holds of their family."""

    name: str
    title: str
    kind: Literal["techniques", "pareto"]
    tables: tuple[str, ...] = ()


_NO_NUMBER = "among the settings in the report's text, which prints no number"
_AFTER = "not in the report: trained in float, quantized after"

TABLES: tuple[TableSpec, ...] = (
    TableSpec(
        "table-1",
        "Table 1: quantization of the NCSN",
        "ncsn",
        "1",
        "quantized",
        extra=(
            ("linear-4bit", _AFTER),
            ("linear-8bit", _AFTER),
            ("adam-8bit", "not in the report: only the optimizer has 8 bits"),
        ),
    ),
    TableSpec(
        "table-2",
        "Table 2: pruning of the NCSN",
        "ncsn",
        "2",
        "pruned",
        extra=(("random-70", _NO_NUMBER), ("l1-50", _NO_NUMBER)),
    ),
    TableSpec("table-3", "Table 3: grouped convolutions in the NCSN", "ncsn", "3", "grouped"),
    TableSpec(
        "samplers",
        "Section 3.2.1: samplers of the NCSN",
        "ncsn",
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
    FigureSpec("pareto", "Size against FID", "pareto"),
)

CELLS = "cells"  # the table of everything, one line per cell
TABLE_NAMES = (*(table.name for table in TABLES), CELLS)
FIGURE_NAMES = tuple(figure.name for figure in FIGURES)
TABLE_FORMATS = ("csv", "md")
FIGURE_FORMATS = ("svg", "png", "html")
