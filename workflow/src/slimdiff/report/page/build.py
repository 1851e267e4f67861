"""The page results/report.html: one HTML file that shows the whole matrix and needs no network.

User text (names, reasons, settings) is escaped by the template and reaches the script as JSON. A content security
policy blocks all other scripts and every request.
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

from slimdiff.analysis.decisions import Margins
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.paper import NOT_RUN
from slimdiff.errors import UserError
from slimdiff.io.text import duration, significant, size
from slimdiff.report import contents
from slimdiff.report.figures import pareto, style, timeline
from slimdiff.report.page import charts, images
from slimdiff.report.page.dot_plots import dot_plots
from slimdiff.report.page.summary import answer
from slimdiff.report.tables.markdown import NOTHING, missing

RECIPE = ["dataset", "model", "optimization"]
ASSETS = Path(__file__).parent / "assets"
# Symbols of verdicts and findings, so that they are more than a colour.
MARKS = {
    "replicated": "✓",
    "contradicted": "✗",
    "unresolved": "?",
    "not run": "–",
    "better": "↓",
    "worse": "↑",
    "equivalent": "=",
    "disturbed": "~",
    "failed": "✗",
}
MAX_ROWS = 500  # of a table; the files have all


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
    """Return the page as HTML.

    Args:
        findings: the statistics that the stage `claims` writes.
        claims: the record that the stage `claims` writes.
        tables: folder of the tables in Markdown.
        cells: folder of the cells, with the samples of `selection.pictured`.
        trainings: folder of the trainings, with the record of each.
        benchmarks: folder of the benchmark records; it may be empty.

    Raises:
        UserError: a table, a record or a samples file is missing or damaged.
    """
    frame, source = matrix.frame, matrix.provenance
    recipes = pareto.recipes(matrix, findings)
    points, jobs = pareto.points(recipes), timeline.read_jobs(benchmarks, trainings, frame)
    curves, n_more_curves = charts.read_curves(frame, trainings)
    sheets = images.read(frame, cells)
    plots, scale = dot_plots(matrix, findings, paper)
    failed = frame[frame["status"] == "failed"]
    data = {
        "points": {
            dataset: [_point(row, sheets.cells) for row in block.to_dict("records")]
            for dataset, block in points.groupby("dataset", sort=False)
        },
        "facts": [asdict(fact) for fact in pareto.FACTS],
        "pareto": {dataset: charts.pareto_charts(block) for dataset, block in points.groupby("dataset", sort=False)},
        "losses": [
            {"title": f"{dataset}, {model}", "specs": charts.loss_charts(block)}
            for (dataset, model), block in curves.groupby(["dataset", "model"], sort=False)
        ],
        "sessions": charts.timeline_charts(jobs),
        "cells": sheets.cells,
        "columns": images.COLUMNS,
    }
    scripts = [_escape_script(_library()), _escape_script((ASSETS / "page.js").read_text(encoding="utf-8"))]
    return _template().render(
        policy=_policy(scripts),
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        data=data,
        answer=asdict(answer(frame, findings)),
        overview=_overview(frame, source),
        costs=[cost for cost in contents.COSTS if any(points[cost.column] > 0)],
        families=style.family_legend(points["family"]),
        undrawn=["/".join(row) for row in recipes.loc[~(recipes["fid_indomain"] > 0), RECIPE].itertuples(index=False)],
        disturbed=["/".join(row) for row in points.loc[points["disturbed"], RECIPE].itertuples(index=False)],
        plots=plots,
        scale=scale,
        margin=findings.margins.quality_text,
        n_more_curves=n_more_curves,
        sheets=sheets,
        claims=_claims(claims),
        tables=[_table(tables / f"{name}.md") for name in contents.TABLE_NAMES if name != "claims"],
        totals=timeline.totals(jobs).to_dict("records"),
        timeline_caption=timeline.caption(jobs),
        machines=_machines(frame),
        source=_source(source),
        config=json.dumps(source.get("config", {}), indent=2, ensure_ascii=False),
        failed=failed.head(MAX_ROWS).to_dict("records"),
        n_failed=len(failed),
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
    """Return Vega, Vega-Lite and Vega-Embed as one script, in the version of altair's specifications."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.javascript_bundle(None, version))  # type: ignore[arg-type]  # None: all three as globals


def _escape_script(text: str) -> str:
    """Return `text` so that it cannot end its script element."""
    return text.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _policy(scripts: Sequence[str]) -> str:
    """Return a content security policy: `scripts` alone, inline styles and pictures, and no requests."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _point(row: Mapping[Any, Any], cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a point of the charts as JSON values, with the index of its first cell among `cells` as `picture`."""
    point: dict[str, Any] = {str(key): None if missing(value) else value for key, value in row.items()}
    point = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in point.items()}
    recipe = (row["dataset"], row["model"], row["optimization"])
    indices = (i for i, cell in enumerate(cells) if (cell["dataset"], cell["model"], cell["recipe"]) == recipe)
    return point | {"picture": next(indices, None)}


def _overview(matrix: pd.DataFrame, source: Mapping[str, Any]) -> dict[str, Any]:
    seeds = matrix["seed"].nunique()
    return {
        "cells": len(matrix),
        "missing": len(source.get("missing", {})),  # cells without a row yet
        "seeds": seeds,
        "datasets": list(dict.fromkeys(matrix["dataset"])),
        "models": list(dict.fromkeys(matrix["model"])),
        "samples": sorted({int(number) for number in matrix["n_samples"].dropna()}),
        "date": str(source.get("written_at", ""))[:10],
        "commit": str(source.get("git_commit") or ""),
    }


def _source(source: Mapping[str, Any]) -> dict[str, str]:
    """Return the code, machine and versions in the provenance."""
    machine = source.get("machine", {})
    values = {
        "slimdiff": source.get("slimdiff"),
        "commit": source.get("git_commit"),
        "code of the matrix": source.get("code"),
        "written at": source.get("written_at"),
        "platform": machine.get("platform"),
        "CPUs": machine.get("cpu_count"),
        **source.get("versions", {}),
    }
    return {name: str(value) for name, value in values.items() if value}


def _claims(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims with a verdict, and those about cells outside the matrix."""
    return {
        "counts": {verdict: number for verdict, number in record["verdicts"].items() if number},
        "evaluated": [claim for claim in record["claims"] if claim["verdict"] != NOT_RUN],
        "not_run": [claim for claim in record["claims"] if claim["verdict"] == NOT_RUN],
        "confidence": 100 * record["confidence"],
        "margins": {**record["margins"], "quality": Margins(**record["margins"]).quality_text},
    }


def _table(path: Path) -> dict[str, Any]:
    """Return a Markdown table: its title, and the rest as HTML. The parser escapes HTML and ignores links."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage `report` first") from None
    title, _, rest = text.removeprefix("# ").partition("\n")
    body = parser.render(_truncated(rest, path.stem)).replace("<table>", '<div class="scroll" tabindex="0"><table>')
    body = body.replace("</table>", "</table></div>").replace("<h2>", "<h3>").replace("</h2>", "</h3>")
    return {"name": path.stem, "title": title, "body": body}


def _truncated(text: str, name: str) -> str:
    """Return the tables of `text` up to MAX_ROWS lines, and how many are omitted; browsers are slow with thousands."""
    kept, n_rows, lines = [], 0, text.split("\n")
    for line in lines:
        n_rows += line.startswith("|")
        if n_rows <= MAX_ROWS or not line.startswith("|"):
            kept.append(line)
    n_omitted = len(lines) - len(kept)
    note = f"{n_omitted:,} more lines are in tables/{name}.md and tables/{name}.csv."
    return "\n".join(kept + (["", note] if n_omitted else []))


def _machines(matrix: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the machines of the profiles, with the number of cells of each."""
    columns = ["device", "cpu_model", "gpu_model", "threads", "torch_version"]
    profiled = matrix[matrix["device"].notna()]
    machines = profiled.groupby(columns, dropna=False, sort=False).size().reset_index(name="cells")
    return [
        {str(key): NOTHING if missing(value) else value for key, value in row.items()}
        for row in machines.to_dict("records")
    ]


def _mark(word: str) -> str:
    return MARKS.get(word, "")
