"""Every figure of the matrix, as SVG, PNG and HTML."""

from pathlib import Path

import altair as alt
import pandas as pd

from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.report.contents import FIGURES, FigureSpec
from slimdiff.report.figures import ablations, guidance, pareto, style, techniques, versus_paper


def write_figures(matrix: Matrix, findings: Findings, paper: pd.DataFrame, folder: Path) -> None:
    """Write every figure of numbers into `folder`."""
    for spec in FIGURES:
        style.save_all(draw(matrix, findings, paper, spec), folder, spec.name)


def draw(matrix: Matrix, findings: Findings, paper: pd.DataFrame, spec: FigureSpec) -> alt.VConcatChart:
    """Return the figure `spec`."""
    if spec.kind == "techniques":
        return techniques.figure(matrix, findings, paper, spec)
    if spec.kind == "versus-paper":
        return versus_paper.figure(matrix, findings, paper, spec.title)
    if spec.kind == "pareto":
        return pareto.figure(matrix, findings, spec.title)
    drawers = {"sensitivity": ablations.sensitivity, "sparsity": ablations.sparsity, "guidance": guidance.figure}
    return drawers[spec.kind](findings, spec.title)
