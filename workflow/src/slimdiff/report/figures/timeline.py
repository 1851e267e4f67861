"""Jobs of a run over time, from their records of time and memory (slimdiff.runtime.usage).

A record holds the duration of a job; the modification time of its file is the end. Copies may lose these times: if
`started_at` of most trainings disagrees with them, the figure shows durations alone.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.catalog.stages import CELL_STAGES, DATASET_STAGES, TRAINING_STAGES
from slimdiff.config.cells import run_path
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.report import contents
from slimdiff.report.figures import style

STAGES = (*DATASET_STAGES, *TRAINING_STAGES, *CELL_STAGES)  # from top to bottom; others come last, by name
SHARED = "shared"  # model of a job that serves a whole data set
MAX_DRIFT_S = 120.0  # between the start of a training by its record and by the modification time
IDLE_S = 600.0  # a pause of this length starts a new session, with its own panel
WIDTH_PX = 680
LANE_PX = 16
MAX_BARS, MAX_BINS = 1000, 400  # with more jobs than bars, those that start in the same bin are merged
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#997700", "#56B4E9")  # of models, repeating
COLUMNS = ("stage", "job", "model", "seconds", "cpu_seconds", "memory_mb", "start", "end", "session", "lane")
NUMBERS = ("seconds", "cpu_seconds", "memory_mb", "start", "end")
EMPTY = "This run has no benchmark records."


def read_jobs(benchmarks: Path, trainings: Path, matrix: pd.DataFrame) -> pd.DataFrame:
    """Return one row per recorded job of the cells in `matrix`, in the order of their start.

    Columns: stage; job ("mnist/ncsn/plain/seed0"); model (SHARED for a job of a whole data set); seconds; cpu_seconds;
    memory_mb (peak); start and end (seconds from the start of the session); session (from 0); lane (within the stage
    and session: parallel jobs have different lanes). `attrs["started_at"]` holds their starts (ISO 8601, UTC).
    It is empty if the times of the files cannot be trusted; then one session shows the jobs of each stage in sequence.

    Args:
        benchmarks: folder of {stage}/{job}.jsonl; records of other matrices are skipped.
        trainings: folder of {job}/train.json.

    Raises:
        UserError: a record is damaged. The message names the file.
    """
    names = _job_names(matrix)
    rows = []
    for path in sorted(benchmarks.rglob("*.jsonl")):
        stage, *parts = path.relative_to(benchmarks).with_suffix("").parts
        name = "/".join(parts)
        if name not in names and not (len(parts) == 1 and name.partition("-")[0] in names):
            continue
        record = _last_record(path)
        seconds, end = float(record["s"]), path.stat().st_mtime
        rows.append(
            {
                "stage": stage,
                "job": name,
                "model": parts[1] if len(parts) > 1 else SHARED,
                "seconds": seconds,
                "cpu_seconds": _number(record.get("cpu_time")),
                "memory_mb": _number(record.get("max_rss")),
                "start": end - seconds,
                "end": end,
            }
        )
    frame = pd.DataFrame(rows, columns=[*COLUMNS[:-2]]).astype(dict.fromkeys(NUMBERS, "float64"))
    frame["stage"] = pd.Categorical(frame["stage"], _ordered(frame["stage"]), ordered=True)
    return _dated(frame) if _has_true_times(frame, trainings) else _undated(frame)


def totals(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per stage: jobs, total and longest seconds, CPU seconds, peak memory in MB."""
    grouped = jobs.groupby("stage", observed=True, sort=True)
    return grouped.agg(
        jobs=("job", "size"),
        seconds=("seconds", "sum"),
        longest=("seconds", "max"),
        cpu_seconds=("cpu_seconds", "sum"),
        memory_mb=("memory_mb", "max"),
    ).reset_index()


def write(jobs: pd.DataFrame, folder: Path) -> None:
    """Write the figure into `folder`."""
    style.save_all(figure(jobs, contents.TIMELINE_TITLE), folder, contents.TIMELINE)


def figure(jobs: pd.DataFrame, title: str) -> alt.VConcatChart:
    """Return the figure: one panel for each of the last sessions."""
    panels: list[Any] = [panel(jobs, session).properties(width=WIDTH_PX) for session in last_sessions(jobs)]
    return style.vconcat(panels or [style.placeholder(EMPTY, WIDTH_PX)], title, style.wrap(caption(jobs)))


def last_sessions(jobs: pd.DataFrame) -> list[int]:
    """Return the sessions that fit into a figure."""
    return sorted(jobs["session"].unique())[-style.MAX_PANELS :]


def caption(jobs: pd.DataFrame) -> str:
    """Return how to read the figure of `jobs`."""
    if not jobs.attrs["started_at"]:
        return (
            "The modification times of the records are not those of the run, so start times are unknown: bars show "
            "durations in sequence."
        )
    return (
        "Each bar is one job, including the start of Python; parallel jobs of a stage are stacked. After ten minutes "
        "without a job a new session begins."
    )


def panel(jobs: pd.DataFrame, session: int) -> alt.Chart:
    """Return the bars of one session; the caller sets the width."""
    models = list(dict.fromkeys(jobs["model"]))
    own = jobs[jobs["session"] == session].sort_values(["stage", "lane"])
    rows = own["stage"].astype(str) + "·" + own["lane"].astype(str)
    own = own.assign(row=rows)
    rows, own = own["row"], _merged(own)
    minutes = own.assign(stage=own["stage"].astype(str), start=own["start"] / 60, end=own["end"] / 60)
    order = list(dict.fromkeys(rows))
    starts = jobs.attrs["started_at"]
    heading = f"from {starts[session][:16].replace('T', ' ')} UTC" if starts else "durations"
    label = "split(datum.label, '·')[1] == '0' ? split(datum.label, '·')[0] : ''"
    axis = alt.Axis(title=None, labelExpr=label, ticks=False, domain=False, grid=False)
    legend = style.legend("bottom", len(models), symbolType="square")
    palette = [style.GREY if name == SHARED else COLORS[i % len(COLORS)] for i, name in enumerate(models)]
    return (
        alt.Chart(minutes.drop(columns=["session", "lane"], errors="ignore"))
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
            title=style.panel_title(heading),
        )
    )


def _merged(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return the jobs of one session; beyond MAX_BARS, merge the jobs of a model and row that start in the same bin."""
    if len(jobs) <= MAX_BARS:
        return jobs
    bin_s = (jobs["end"].max() or 1.0) / MAX_BINS
    keys = [jobs["row"], jobs["model"], (jobs["start"] // bin_s).astype(int)]
    first = dict.fromkeys(("stage", "job", "model", "row"), "first")
    sums = dict.fromkeys(("seconds", "cpu_seconds"), "sum")
    grouped = jobs.astype({"stage": str}).groupby(keys, sort=False)
    bars = grouped.agg({**first, "start": "min", "end": "max", **sums, "memory_mb": "max"})
    more = grouped.size() - 1
    names = [f"{job} and {n:,} more" if n else job for job, n in zip(bars["job"], more, strict=True)]
    return bars.assign(job=names).reset_index(drop=True)


def _job_names(matrix: pd.DataFrame) -> set[str]:
    """Return the data sets, trainings and cells of the matrix, as their jobs are named."""
    rows = matrix[["dataset", "model", "training", "optimization", "seed"]].itertuples(index=False)
    names: set[str] = set(matrix["dataset"])
    for dataset, model, training, optimization, seed in rows:
        names |= {run_path(dataset, model, name, seed) for name in (training, optimization)}
    return names


def _last_record(path: Path) -> dict[str, Any]:
    """Return the last record of a file: that of the attempt that succeeded."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
        float(record["s"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} is not a benchmark record with seconds `s`; delete it, the page does without it"
        ) from None
    return record


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")  # "NA" for very short jobs


def _ordered(stages: "pd.Series[str]") -> list[str]:
    present = set(stages)
    return [name for name in STAGES if name in present] + sorted(present - set(STAGES))


def _has_true_times(frame: pd.DataFrame, trainings: Path) -> bool:
    """Whether the times of most trainings' files agree with the start in their records."""
    agree = []
    for job, start in frame.loc[frame["stage"] == "train", ["job", "start"]].itertuples(index=False):
        path = trainings / job / "train.json"
        if path.is_file():
            recorded = datetime.datetime.fromisoformat(files.read_json(path)["started_at"]).timestamp()
            agree.append(abs(recorded - start) < MAX_DRIFT_S)
    return sum(agree) > len(agree) / 2


def _dated(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.sort_values("start", kind="stable").reset_index(drop=True)
    pause = frame["start"] - frame["end"].cummax().shift()
    frame["session"] = (pause > IDLE_S).cumsum().astype(int)
    starts = frame.groupby("session")["start"].min()
    zero = frame["session"].map(starts)
    frame = frame.assign(start=frame["start"] - zero, end=frame["end"] - zero)
    frame["lane"] = _lanes(frame)
    stamps = [datetime.datetime.fromtimestamp(moment, datetime.UTC) for moment in starts]
    frame.attrs["started_at"] = [stamp.isoformat(timespec="seconds") for stamp in stamps]
    return frame


def _undated(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.sort_values(["stage", "job"], kind="stable").reset_index(drop=True)
    ends = frame.groupby("stage", observed=True)["seconds"].cumsum()
    frame = frame.assign(start=ends - frame["seconds"], end=ends, session=0, lane=0)
    frame.attrs["started_at"] = []
    return frame


def _lanes(frame: pd.DataFrame) -> Sequence[int]:
    """Return for each job the first lane of its stage and session that is free at its start."""
    free: dict[tuple[str, int], list[float]] = {}
    lanes = []
    for stage, session, start, end in frame[["stage", "session", "start", "end"]].itertuples(index=False):
        ends = free.setdefault((stage, session), [])
        lane = next((place for place, moment in enumerate(ends) if moment <= start), len(ends))
        ends[lane : lane + 1] = [end]
        lanes.append(lane)
    return lanes
