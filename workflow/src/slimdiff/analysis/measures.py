"""Measures: the columns that are compared between recipes and with the paper."""

from dataclasses import dataclass, replace

from slimdiff.config.cells import BASELINE as BASELINE

SAMPLER_BASELINE = "sampler-euler-maruyama"  # the paper compares its samplers with this one
REFERENCE = "reference"  # stands for each recipe's own: `baseline`, or the uncompressed recipe trained likewise


@dataclass(frozen=True)
class Measure:
    """One column of the matrix, and how tables show it."""

    column: str
    heading: str
    decimals: int
    paper: str = ""  # the paper's column for the same quantity; empty: it has none
    change: bool = True  # show the change against the baseline
    interval: bool = False  # show the confidence interval of the mean
    share: bool = False  # between 0 and 1; shown in percent
    meaning: str = ""  # a sentence for the caption


FID = Measure("fid_indomain", "in-domain FID", 2, paper="fid", interval=True)
FID_PCT = Measure("fid_indomain_pct", "in-domain FID (% of variance)", 2, change=False)
FLOOR = Measure("fid_indomain_floor", "in-domain FID, test set", 2, change=False)
KID = Measure("kid", "KID", 4, interval=True)
COVERAGE = Measure("coverage", "coverage (%)", 3, change=False, share=True)
SIZE = Measure("size_gzip_bytes", "gzip size (bytes)", 0, paper="size_bytes")
PACKED = Measure("size_packed_bytes", "packed size (bytes)", 0)
BITS = Measure(
    "bits_per_weight",
    "bits per weight",
    2,
    change=False,
    meaning="Bits per weight are those of the packed file for each parameter, zeros included.",
)
LATENCY = Measure("inference_ms_per_image", "ms per image", 2, paper="inference_ms", change=False)
TIME = Measure("relative_time", "time / the baseline's, in turns", 3)
EVALUATIONS = Measure("network_evaluations", "network evaluations", 1, change=False)
TRAINING = Measure(
    "train_ms_per_epoch",
    "training, ms per epoch",
    0,
    paper="train_ms_per_epoch",
    change=False,
    meaning="Times per epoch are of trainings that may run side by side, so they do not compare.",
)
ACCURACY = Measure(
    "class_accuracy",
    "class accuracy (%)",
    3,
    change=False,
    share=True,
    meaning="Class accuracy is the share of samples that a classifier of real images assigns to the requested class; "
    "unconditional models have none, and the paper reports none.",
)
LIKENESS = (
    Measure(
        "psnr",
        "PSNR to `baseline` (dB)",
        1,
        change=False,
        meaning="PSNR and SSIM compare each image with that of `baseline` from the same noise; samples of other noise "
        "have none.",
    ),
    Measure("ssim", "SSIM to `baseline`", 3, change=False),
)
IMAGES = (FID, KID)  # a finding on images needs both
QUALITY = (FID, FID_PCT, FLOOR, KID, COVERAGE)
COST_MEASURES = (SIZE, PACKED, BITS, LATENCY, TIME, TRAINING)
MEASURES = (*QUALITY, ACCURACY, *LIKENESS, *COST_MEASURES, EVALUATIONS)
VERSUS_PAPER = (FID, SIZE, replace(TIME, paper="inference_ms"))  # what both sides compare with a baseline
TECHNIQUE = (*QUALITY, *LIKENESS, *COST_MEASURES)


@dataclass(frozen=True)
class TableSpec:
    """A table of the paper next to our numbers.

    Each of `families` gets its baseline, the paper's lines for that family, then `extra`.
    """

    name: str  # of the files, without suffix
    title: str
    families: tuple[str, ...]  # of models; each has its own baseline
    paper_table: str  # value of the column `table` in paper_reference.csv
    kind: str = "other"  # of its recipes that the config lacks (paper.kind)
    measures: tuple[Measure, ...] = TECHNIQUE
    baseline: str = BASELINE  # recipe that changes are relative to
    baseline_table: str = "S4.1"  # where the paper prints it
    extra: tuple[tuple[str, str], ...] = ()  # (recipe, note) of recipes that the paper lacks
