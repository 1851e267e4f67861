"""What ran when and for how long: the jobs of a run from their benchmark records, and the figure of them.

A record says how long its job took, and its file's date when it ended. A copy may have lost the dates; then the
trainings' own `started_at` disagrees with them, and the figure shows lengths alone.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.config.cells import run_path
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.report import contents
from slimdiff.report.figures import style
from slimdiff.report.figures.style import FONT_PX

# The order of the stages in the figure: that of the data's way. Others come last, by name.
STAGES = (
    "data",
    "extractors",
    "classifier",
    "inception",
    "reference",
    "train",
    "finetune",
    "compress",
    "sample",
    "score",
    "profile",
)
SHARED = "shared"  # the model of a job that serves a whole data set
TRUST_S = 120.0  # dates are believed where most trainings began within this of what their record says
IDLE_S = 600.0  # so long without a job ends a sitting: what follows is a figure of its own
WIDTH_PX = 680
LANE_PX = 16
MOST_BARS, MOST_BINS = 1000, 400  # jobs that are drawn one by one; parts of the width where there are more
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#997700", "#56B4E9")  # of models, in their order
COLUMNS = ("stage", "job", "model", "seconds", "cpu_seconds", "memory_mb", "start", "end", "sitting", "lane")
NUMBERS = ("seconds", "cpu_seconds", "memory_mb", "start", "end")
EMPTY = "There are no benchmark records of this run."


def read_jobs(benchmarks: Path, trainings: Path, matrix: pd.DataFrame) -> pd.DataFrame:
    """One row per recorded job of the cells in `matrix`, in the order of their start.

    Columns: stage, job ("mnist/ncsn/plain/seed0"), model (SHARED for a job of a whole data set), seconds, cpu_seconds,
    memory_mb (peak), start and end (seconds from the first start of its sitting), sitting (number from 0), lane (within
    its stage and sitting: jobs that ran side by side have lanes of their own). `attrs["began"]` holds the ISO 8601
    beginning of each sitting (UTC); it is empty where the dates cannot be trusted, and then there is one sitting in
    which the jobs of each stage stand behind each other.

    Args:
        benchmarks: folder with {stage}/{job}.jsonl, as the workflow writes them; those of other matrices are left out.
        trainings: folder with {job}/train.json.

    Raises:
        UserError: a record is broken. The message names the file.
    """
    names = _names(matrix)
    rows = []
    for path in sorted(benchmarks.rglob("*.jsonl")):
        stage, *parts = path.relative_to(benchmarks).with_suffix("").parts
        name = "/".join(parts)
        if name not in names and not (len(parts) == 1 and name.partition("-")[0] in names):
            continue
        record = _last(path)
        end = path.stat().st_mtime
        model = parts[1] if len(parts) > 1 else SHARED
        seconds = float(record["s"])
        memory = record.get("max_rss")
        rows.append(
            {"stage": stage, "job": name, "model": model, "seconds": seconds, "start": end - seconds, "end": end}
            | {"cpu_seconds": _number(record.get("cpu_time")), "memory_mb": _number(memory)}
        )
    frame = pd.DataFrame(rows, columns=[*COLUMNS[:-2]]).astype(dict.fromkeys(NUMBERS, "float64"))
    frame["stage"] = pd.Categorical(frame["stage"], _ordered(frame["stage"]), ordered=True)
    return _dated(frame) if _trusted(frame, trainings) else _undated(frame)


def totals(jobs: pd.DataFrame) -> pd.DataFrame:
    """One row per stage: jobs, total and longest seconds, CPU seconds, peak memory in MB."""
    grouped = jobs.groupby("stage", observed=True, sort=True)
    return grouped.agg(
        jobs=("job", "size"),
        seconds=("seconds", "sum"),
        longest=("seconds", "max"),
        cpu_seconds=("cpu_seconds", "sum"),
        memory_mb=("memory_mb", "max"),
    ).reset_index()


def write(jobs: pd.DataFrame, folder: Path) -> None:
    """Write the figure into `folder`, in every format of the specs."""
    chart = figure(jobs, contents.TIMELINE_TITLE)
    for suffix in contents.FIGURE_FORMATS:
        style.save(chart, folder / f"{contents.TIMELINE}.{suffix}")


def figure(jobs: pd.DataFrame, title: str) -> alt.VConcatChart:
    """The figure for files: the last sittings below each other."""
    last = sorted(jobs["sitting"].unique())[-style.MOST_PANELS :]
    panels: list[Any] = [panel(jobs, number).properties(width=WIDTH_PX) for number in last]
    return style.stack(panels or [style.sentence(EMPTY, WIDTH_PX)], title, remarks(jobs))


def remarks(jobs: pd.DataFrame) -> list[str]:
    """Lines that say how to read the figure."""
    if not jobs.attrs["began"]:
        return style.lines(
            "The dates of the records are not those of the run, so when jobs ran is not known: bars stand behind each "
            "other."
        )
    return style.lines(
        "Each bar is one job; jobs of a stage that ran side by side are below each other. Where no job ran for ten "
        "minutes a new sitting begins. Times include starting Python."
    )


def panel(jobs: pd.DataFrame, sitting: int) -> alt.Chart:
    """The bars of one sitting; its width is left to the caller."""
    models = list(dict.fromkeys(jobs["model"]))
    own = jobs[jobs["sitting"] == sitting].sort_values(["stage", "lane"])
    rows = own["stage"].astype(str) + "·" + own["lane"].astype(str)
    own = own.assign(row=rows)
    rows, own = own["row"], _joined(own)
    minutes = own.assign(stage=own["stage"].astype(str), start=own["start"] / 60, end=own["end"] / 60)
    order = list(dict.fromkeys(rows))
    began = jobs.attrs["began"]
    heading = f"from {began[sitting][:16].replace('T', ' ')} UTC" if began else "lengths of the jobs"
    label = "split(datum.label, '·')[1] == '0' ? split(datum.label, '·')[0] : ''"
    axis = alt.Axis(title=None, labelExpr=label, ticks=False, domain=False, grid=False)
    legend = alt.Legend(title=None, orient="bottom", symbolType="square")
    palette = [style.GREY if name == SHARED else COLORS[i % len(COLORS)] for i, name in enumerate(models)]
    return (
        alt.Chart(minutes.drop(columns=["sitting", "lane"], errors="ignore"))
        .mark_bar(cornerRadius=2, stroke="white", strokeWidth=1)
        .encode(
            x=alt.X("start:Q", title="minutes", scale=alt.Scale(nice=False, zero=True)),
            x2="end:Q",
            y=alt.Y("row:N", sort=order, axis=axis, scale=alt.Scale(padding=0.12)),
            color=alt.Color("model:N", legend=legend, scale=alt.Scale(domain=models, range=palette)),
            tooltip=[
                alt.Tooltip("stage:N"),
                alt.Tooltip("job:N"),
                alt.Tooltip("seconds:Q", format=".1f"),
                alt.Tooltip("cpu_seconds:Q", title="CPU seconds", format=".1f"),
                alt.Tooltip("memory_mb:Q", title="peak memory (MB)", format=",.0f"),
            ],
        )
        .properties(
            height=LANE_PX * len(order),
            title=alt.TitleParams(heading, anchor="start", fontSize=FONT_PX + 1),
        )
    )


def _joined(jobs: pd.DataFrame) -> pd.DataFrame:
    """The jobs of one sitting, those that a screen could not tell apart as one.

    Where there are more than MOST_BARS these are the jobs of a model that begin in the same of MOST_BINS parts of the
    sitting, in the same lane (column `row`).
    """
    if len(jobs) <= MOST_BARS:
        return jobs
    part = (jobs["end"].max() or 1.0) / MOST_BINS
    keys = [jobs["row"], jobs["model"], (jobs["start"] // part).astype(int)]
    whole = {"stage": "first", "job": "first", "model": "first", "row": "first", "start": "min", "end": "max"}
    grouped = jobs.astype({"stage": str}).groupby(keys, sort=False)
    found = grouped.agg({**whole, "seconds": "sum", "cpu_seconds": "sum", "memory_mb": "max"})
    more = grouped.size() - 1
    names = [f"{job} and {n:,} more" if n else job for job, n in zip(found["job"], more, strict=True)]
    return found.assign(job=names).reset_index(drop=True)


def _names(matrix: pd.DataFrame) -> set[str]:
    """What jobs of the matrix are about: data sets, trainings and cells."""
    rows = matrix[["dataset", "model", "training", "optimization", "seed"]].itertuples(index=False)
    found: set[str] = set(matrix["dataset"])
    for dataset, model, training, optimization, seed in rows:
        found |= {run_path(dataset, model, name, seed) for name in (training, optimization)}
    return found


def _last(path: Path) -> dict[str, Any]:
    """The last record of a file: that of the try that ended well."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        float(record["s"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} is no benchmark record with its seconds `s`: delete it, the page goes without it"
        ) from None
    return record


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")  # a job of a moment has "NA"


def _ordered(stages: "pd.Series[str]") -> list[str]:
    found = set(stages)
    return [name for name in STAGES if name in found] + sorted(found - set(STAGES))


def _trusted(frame: pd.DataFrame, trainings: Path) -> bool:
    """Whether the dates of most trainings' records agree with when the trainings say that they began."""
    agree = []
    for job, start in frame.loc[frame["stage"] == "train", ["job", "start"]].itertuples(index=False):
        path = trainings / job / "train.json"
        if path.is_file():
            began = datetime.datetime.fromisoformat(files.read_json(path)["started_at"]).timestamp()
            agree.append(abs(began - start) < TRUST_S)
    return sum(agree) > len(agree) / 2


def _dated(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.sort_values("start", kind="stable").reset_index(drop=True)
    quiet = frame["start"] - frame["end"].cummax().shift()
    frame["sitting"] = (quiet > IDLE_S).cumsum().astype(int)
    began = frame.groupby("sitting")["start"].min()
    zero = frame["sitting"].map(began)
    frame = frame.assign(start=frame["start"] - zero, end=frame["end"] - zero)
    frame["lane"] = _lanes(frame)
    stamps = [datetime.datetime.fromtimestamp(moment, datetime.UTC) for moment in began]
    frame.attrs["began"] = [stamp.isoformat(timespec="seconds") for stamp in stamps]
    return frame


def _undated(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.sort_values(["stage", "job"], kind="stable").reset_index(drop=True)
    ends = frame.groupby("stage", observed=True)["seconds"].cumsum()
    frame = frame.assign(start=ends - frame["seconds"], end=ends, sitting=0, lane=0)
    frame.attrs["began"] = []
    return frame


def _lanes(frame: pd.DataFrame) -> Sequence[int]:
    """The first lane of its stage and sitting that is free when the job starts."""
    free: dict[tuple[str, int], list[float]] = {}
    lanes = []
    for stage, sitting, start, end in frame[["stage", "sitting", "start", "end"]].itertuples(index=False):
        ends = free.setdefault((stage, sitting), [])
        lane = next((place for place, moment in enumerate(ends) if moment <= start), len(ends))
        ends[lane : lane + 1] = [end]
        lanes.append(lane)
    return lanes
