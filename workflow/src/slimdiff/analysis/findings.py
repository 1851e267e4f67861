"""Findings: every statistic that tables, figures and the page show, computed once per matrix.

The stage `claims` writes them to findings.json; the stages `report` and `page` read them and compute no statistics.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, TypeVar

import pandas as pd

from slimdiff.analysis import ablations, comparisons, groups, guidance, proxies, statistics, variance
from slimdiff.analysis.comparisons import Difference
from slimdiff.analysis.decisions import Finding, Margins
from slimdiff.analysis.derived import derive, speed_margins
from slimdiff.analysis.groups import Group, RecipeComparison
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import (
    ACCURACY,
    BASELINE,
    COVERAGE,
    IMAGES,
    MEASURES,
    REFERENCE,
    SAMPLER_BASELINE,
)
from slimdiff.analysis.references import references
from slimdiff.analysis.statistics import Outcome, Ratio, Recipe, Summary
from slimdiff.errors import UserError
from slimdiff.io import records

BASELINES = (REFERENCE, BASELINE, SAMPLER_BASELINE)  # what ratios are relative to
COMPARED = (REFERENCE, SAMPLER_BASELINE)  # what findings are relative to
COLUMNS = (*(measure.column for measure in MEASURES), "params_nonzero", "gmacs")
SHARES = (COVERAGE.column, ACCURACY.column)
T = TypeVar("T")


@dataclass(frozen=True)
class Findings:
    """The statistics of a matrix. Recipes without a value are absent from `summaries` and `ratios`."""

    margins: Margins
    outcomes: Mapping[Recipe, Outcome]  # every recipe, in the order of the matrix
    references: Mapping[Recipe, str | None]  # the recipe that each one is compared with
    summaries: Mapping[str, Mapping[Recipe, Summary]]  # by column: COLUMNS
    sampling_sd: Mapping[Recipe, float]
    ratios: Mapping[str, Mapping[str, Mapping[Recipe, Ratio]]]  # by baseline: BASELINES; then by column
    shares: Mapping[str, Mapping[Recipe, Summary]]  # by column: SHARES; differences from the reference
    differences: Mapping[str, Mapping[Recipe, Difference]]  # by COMPARED
    groups: tuple[Group, ...]
    module_ratios: pd.DataFrame  # ablations.module_ratios
    sparse_recipes: pd.DataFrame  # ablations.sparse_recipes
    guided_recipes: pd.DataFrame  # guidance.guided_recipes
    unconditional_models: pd.DataFrame  # guidance.unconditional_models
    proxies: pd.DataFrame  # proxies.table
    variance: pd.DataFrame  # variance.table

    def summary(self, column: str, recipe: Recipe) -> Summary:
        """Return the summary of `column` over the seeds of `recipe`; an empty one without values."""
        return self.summaries[column].get(recipe, Summary())

    def ratio(self, column: str, recipe: Recipe, baseline: str = REFERENCE) -> Ratio:
        """Return the ratio of `column` to that of `baseline`, of BASELINES; an empty one without pairs."""
        return self.ratios[baseline][column].get(recipe, Ratio())


FRAMES = ("module_ratios", "sparse_recipes", "guided_recipes", "unconditional_models", "proxies", "variance")


def find(matrix: Matrix, margins: Margins) -> Findings:
    """Compute the findings of `matrix`."""
    frame = derive(matrix)
    margins = margins.restrict(frame["dataset"].unique())
    changed = dict.fromkeys([*(measure.column for measure in MEASURES if measure.change), *comparisons.COLUMNS])
    own = references(frame)
    sides: dict[str, Mapping[Recipe, str | None]] = {REFERENCE: own}
    sides |= {name: dict.fromkeys(own, name) for name in (BASELINE, SAMPLER_BASELINE)}
    image_columns = {measure.column for measure in IMAGES}
    # Training on changes the images alone: files and times are compared with the baseline itself.
    ratios = {
        name: {
            column: statistics.ratios(frame, column, side if column in image_columns else _plain(name))
            for column in changed
        }
        for name, side in sides.items()
    }
    speeds = speed_margins(matrix, margins.speed)
    differences = {
        name: comparisons.compare(frame, ratios[name], sides[name], _plain(name), margins, speeds) for name in COMPARED
    }
    cells = ablations.module_cells(frame)
    return Findings(
        margins=margins,
        outcomes=statistics.outcomes(frame),
        references=own,
        summaries={column: _nonempty(statistics.by_recipe(frame, column)) for column in COLUMNS},
        sampling_sd=statistics.sampling_sd(frame),
        ratios={name: {column: _nonempty(found) for column, found in block.items()} for name, block in ratios.items()},
        shares={column: _nonempty(statistics.share_differences(frame, column, own)) for column in SHARES},
        differences=differences,
        groups=groups.group(frame, ratios[REFERENCE], differences[REFERENCE], margins, speeds),
        module_ratios=ablations.module_ratios(cells),
        sparse_recipes=ablations.sparse_recipes(frame),
        guided_recipes=guidance.guided_recipes(frame),
        unconditional_models=guidance.unconditional_models(frame),
        proxies=proxies.table(cells),
        variance=variance.table(frame),
    )


def to_json(findings: Findings) -> dict[str, Any]:
    """Return `findings` as JSON values: recipes as DATASET/MODEL/RECIPE, frames by column, NaN as null."""
    return {field.name: _encode(getattr(findings, field.name)) for field in fields(findings)}


def read(path: str | os.PathLike[str]) -> Findings:
    """Read the findings in `path`, as `to_json` returns them.

    Raises:
        UserError: the file is missing or damaged, or of another version.
    """
    record = records.read_json(path)
    try:
        return Findings(
            margins=Margins(**record["margins"]),
            outcomes=_recipes(record["outcomes"], lambda value: Outcome(**value)),
            references=_recipes(record["references"], lambda value: value),
            summaries={name: _recipes(block, _summary) for name, block in record["summaries"].items()},
            sampling_sd=_recipes(record["sampling_sd"], _float),
            ratios={
                baseline: {name: _recipes(block, _ratio) for name, block in columns.items()}
                for baseline, columns in record["ratios"].items()
            },
            shares={name: _recipes(block, _summary) for name, block in record["shares"].items()},
            differences={name: _recipes(block, _difference) for name, block in record["differences"].items()},
            groups=tuple(_group(group) for group in record["groups"]),
            **{name: pd.DataFrame({key: _column(record[name][key]) for key in record[name]}) for name in FRAMES},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no findings of this slimdiff ({error!r}); delete it and run again") from None


def _plain(name: str) -> str:
    """Return the recipe behind `name`, of BASELINES."""
    return BASELINE if name == REFERENCE else name


def _nonempty(values: Mapping[Recipe, T]) -> dict[Recipe, T]:
    return {recipe: value for recipe, value in values.items() if value.n}  # type: ignore[attr-defined]


def _encode(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return {str(name): [_encode(item) for item in value[name].tolist()] for name in value}
    if is_dataclass(value) and not isinstance(value, type):
        return _encode(asdict(value))
    if isinstance(value, Mapping):
        return {"/".join(key) if isinstance(key, tuple) else key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)  # "inf" is no JSON number either
    return value


def _float(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _recipes(values: Mapping[str, Any], decode: Callable[[Any], T]) -> dict[Recipe, T]:
    decoded = {}
    for name, value in values.items():
        dataset, model, optimization = name.split("/")
        decoded[dataset, model, optimization] = decode(value)
    return decoded


def _summary(value: Mapping[str, Any]) -> Summary:
    return Summary(value["n"], *(_float(value[name]) for name in ("mean", "sd", "low", "high")))


def _ratio(value: Mapping[str, Any]) -> Ratio:
    return Ratio(value["n"], *(_float(value[name]) for name in ("mean", "low", "high", "p", "sd")))


def _difference(value: Mapping[str, Any]) -> Difference:
    return Difference(value["reference"], *(_finding(value[name]) for name in ("images", "size", "speed")))


def _finding(value: Mapping[str, Any]) -> Finding:
    return Finding(value["finding"], value["why"], _float(value["p"]), _float(value["p_equivalent"]))


def _group(value: Mapping[str, Any]) -> Group:
    compared = tuple(
        RecipeComparison(
            name=item["name"],
            fid=_ratio(item["fid"]),
            kid=_ratio(item["kid"]),
            size=_ratio(item["size"]),
            time=_ratio(item["time"]),
            sizes=(_float(item["sizes"][0]), _float(item["sizes"][1])),
            difference=_difference(item["difference"]),
        )
        for item in value["comparisons"]
    )
    numbers = (value["size_column"], _float(value["tolerance"]), _float(value["quality"]))
    return Group(value["name"], _float(value["baseline_fid"]), compared, *numbers)


def _column(values: list[Any]) -> "pd.Series[Any]":
    """Return a column with the dtype that it had: null is NaN in a column of numbers."""
    if values and all(value is None or isinstance(value, float) for value in values):
        return pd.Series([_float(value) for value in values], dtype="float64")
    return pd.Series(values, dtype=None if values else "object")
