"""The page that a reviewer is sent: one HTML file that needs no network, with all that a matrix has to say.

What is written by people (names, reasons, settings) reaches the page through a template that escapes it, and reaches
its script as JSON; a content security policy lets no other script run and nothing be fetched.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markdown_it import MarkdownIt

from slimdiff.analysis import statistics
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.paper import NOT_RUN
from slimdiff.errors import UserError
from slimdiff.io.text import duration, significant, size
from slimdiff.report import contents
from slimdiff.report.figures import style, timeline
from slimdiff.report.page import charts as pagecharts
from slimdiff.report.page import dot_plots, images, summary
from slimdiff.report.tables.markdown import NOTHING, missing

ASSETS = Path(__file__).parent / "assets"
# How a verdict or a finding looks beside its word, so that none hangs on a colour.
MARKS = {
    "replicated": "✓",
    "contradicted": "✗",
    "unresolved": "?",
    "not run": "–",
    "better": "↓",
    "worse": "↑",
    "failed": "✗",
}
MOST_ROWS = 500  # lines of a table on the page; the files have all


def build(
    matrix: Matrix,
    findings: Findings,
    paper: pd.DataFrame,
    claims: Mapping[str, Any],
    tables: Path,
    cells: Path,
    trainings: Path,
    benchmarks: Path,
) -> str:
    """The page as HTML.

    Args:
        findings: the statistics that the stage `claims` writes.
        claims: the record that the stage `claims` writes.
        tables: folder of the tables in Markdown.
        cells: folder of the cells, of which `picks.pictured` have their samples there.
        trainings: folder of the trainings, with the record of each.
        benchmarks: folder of what the workflow timed; it may be empty.

    Raises:
        UserError: a table, a record or a file of samples is missing or broken.
    """
    frame, source = matrix.frame, matrix.provenance
    points, jobs = pagecharts.recipes(matrix, findings), timeline.read_jobs(benchmarks, trainings, frame)
    curves, more_curves = pagecharts.curves(frame, trainings)
    pictures = images.read(frame, cells)
    blocks, scale = dot_plots.blocks(matrix, findings, paper)
    shown = {str(cell["id"]): index for index, cell in enumerate(pictures.cells)}
    data = {
        "points": {
            dataset: [_point(row, shown) for row in block.to_dict("records")]
            for dataset, block in points.groupby("dataset", sort=False)
        },
        "pareto": {dataset: pagecharts.pareto(block) for dataset, block in points.groupby("dataset", sort=False)},
        "losses": [
            {"title": f"{dataset}, {model}", "specs": pagecharts.losses(block)}
            for (dataset, model), block in curves.groupby(["dataset", "model"], sort=False)
        ],
        "sittings": pagecharts.sittings(jobs),
        "cells": pictures.cells,
        "columns": images.COLUMNS,
    }
    scripts = [_script(_library()), _script((ASSETS / "page.js").read_text(encoding="utf-8"))]
    return _template().render(
        policy=_policy(scripts),
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        data=data,
        answer=asdict(summary.answer(frame, findings)),
        overview=_overview(frame, source),
        costs=[cost for cost in contents.COSTS if any(points[cost.column] > 0)] if len(points) else [],
        families=style.families_told(points["family"]),
        undrawn=_undrawn(frame, points),
        blocks=blocks,
        scale=scale,
        resolution=statistics.RESOLUTION,
        more_curves=more_curves,
        pictures=pictures,
        claims=_claims(claims),
        tables=[_table(tables / f"{name}.md") for name in contents.TABLE_NAMES if name != "claims"],
        totals=timeline.totals(jobs).to_dict("records"),
        dated=bool(jobs.attrs["began"]),
        machines=_machines(frame),
        source=_source(source),
        config=json.dumps(source.get("config", {}), indent=2, ensure_ascii=False),
        failed=frame[frame["status"] == "failed"].head(MOST_ROWS).to_dict("records"),
        n_failed=int((frame["status"] == "failed").sum()),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"significant": significant, "size": size, "duration": duration, "mark": _mark}
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "ensure_ascii": False}
    return environment.get_template("page.html")


def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, the version that altair writes specifications for."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.javascript_bundle(None, version))  # type: ignore[arg-type]  # None: all three as globals


def _script(text: str) -> str:
    """`text` as it may stand within a script element."""
    return text.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy: these scripts alone, pictures and styles from within the page, and no network."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _point(row: Mapping[Any, Any], shown: Mapping[str, int]) -> dict[str, Any]:
    """A point of the charts: its row without what JSON has no word for, and the picture that stands for it."""
    known = {str(key): None if missing(value) else value for key, value in row.items()}
    rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in known.items()}
    recipe = (row["dataset"], row["model"], row["optimization"])
    names = [name for name in shown if tuple(name.split("/")[:3]) == recipe]
    return rounded | {"picture": shown[names[0]] if names else None}


def _overview(matrix: pd.DataFrame, source: Mapping[str, Any]) -> dict[str, Any]:
    seeds = matrix["seed"].nunique()
    return {
        "cells": len(matrix),
        "missing": len(source.get("missing", {})),  # of a matrix so far
        "seeds": seeds,
        "datasets": list(dict.fromkeys(matrix["dataset"])),
        "models": list(dict.fromkeys(matrix["model"])),
        "samples": sorted({int(number) for number in matrix["n_samples"].dropna()}),
        "date": str(source.get("written_at", ""))[:10],
        "commit": str(source.get("git_commit") or ""),
    }


def _source(source: Mapping[str, Any]) -> dict[str, str]:
    """Where the matrix comes from: what its provenance knows of code, machine and versions."""
    machine = source.get("machine", {})
    known = {
        "slimdiff": source.get("slimdiff"),
        "commit": source.get("git_commit"),
        "code of the matrix": source.get("code"),
        "written at": source.get("written_at"),
        "platform": machine.get("platform"),
        "CPUs": machine.get("cpu_count"),
        **source.get("versions", {}),
    }
    return {name: str(value) for name, value in known.items() if value}


def _undrawn(matrix: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """The recipes without a FID, hence without a point."""
    drawn = set(zip(points["dataset"], points["model"], points["optimization"], strict=True))
    recipes = dict.fromkeys(zip(matrix["dataset"], matrix["model"], matrix["optimization"], strict=True))
    return ["/".join(recipe) for recipe in recipes if recipe not in drawn]


def _claims(record: Mapping[str, Any]) -> dict[str, Any]:
    """The claims, those with a verdict first; the others apart."""
    evaluated = [claim for claim in record["claims"] if claim["verdict"] != NOT_RUN]
    return {
        "counts": {verdict: number for verdict, number in record["verdicts"].items() if number},
        "judged": evaluated,
        "not_run": [claim for claim in record["claims"] if claim["verdict"] == NOT_RUN],
        "confidence": 100 * record["confidence"],
    }


def _table(path: Path) -> dict[str, Any]:
    """The title of a table's Markdown page, and the rest of it as HTML: text of ours and escaped text of others."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage `report` to make it") from None
    title, _, rest = text.removeprefix("# ").partition("\n")
    rest = _shortened(rest, path.stem)
    body = parser.render(rest).replace("<table>", '<div class="scroll" tabindex="0"><table>')
    body = body.replace("</table>", "</table></div>").replace("<h2>", "<h3>").replace("</h2>", "</h3>")
    return {"name": path.stem, "title": title, "body": body}


def _shortened(text: str, name: str) -> str:
    """The first MOST_ROWS lines of a page's tables, and how many are left out; a browser draws no ten thousand."""
    kept, rows, lines = [], 0, text.split("\n")
    for line in lines:
        rows += line.startswith("|")
        if rows <= MOST_ROWS or not line.startswith("|"):
            kept.append(line)
    left_out = len(lines) - len(kept)
    note = f"{left_out:,} more lines are in tables/{name}.md, and in tables/{name}.csv."
    return "\n".join(kept + (["", note] if left_out else []))


def _machines(matrix: pd.DataFrame) -> list[dict[str, Any]]:
    """The machines that were profiled, with how many cells each."""
    columns = ["device", "cpu_model", "gpu_model", "threads", "torch_version"]
    found = matrix[matrix["device"].notna()].groupby(columns, dropna=False, sort=False).size().reset_index(name="cells")
    return [
        {str(key): NOTHING if missing(value) else value for key, value in row.items()}
        for row in found.to_dict("records")
    ]


def _mark(word: str) -> str:
    return MARKS.get(word, "")
