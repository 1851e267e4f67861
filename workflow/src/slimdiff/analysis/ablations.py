"""Ablations: cells that differ from their baseline in one pruned module, or in the number and timing of zeros."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.measures import BASELINE
from slimdiff.catalog.layers import MODULE, layers_of, within

LOSSES = ("denoising_loss", "denoising_loss_low", "denoising_loss_middle", "denoising_loss_high")
PROXIES = (*LOSSES, "fraction_removed", "macs_saved")  # columns of `module_cells` that may predict the FID
MODULE_CELLS = ("dataset", "model", "seed", "module", "depth", "method", "ratio", *PROXIES)
MODULE_RATIOS = ("dataset", "model", "module", "depth", "method", "seeds", "ratio", "low", "high")
SPARSE_RECIPES = (
    *("dataset", "model", "optimization", "method", "amount", "zeros", "seeds"),
    *("fid_indomain", "low", "high"),
)
MIN_AMOUNTS = 2  # of one method, for a curve
DEFAULTS = {"scope": "global", "allocation": "pool"}  # options that the name of a method leaves out

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class PairedRow:
    """A row of the matrix and the baseline with the same data set, model and seed, with the settings of both."""

    own: Mapping[Any, Any]
    baseline: Mapping[Any, Any]
    settings: Settings
    baseline_settings: Settings

    def prune_options(self) -> Settings:
        """Return the options of `prune` after the training if nothing else differs from the baseline, else {}."""
        steps = self.settings.get("compress", {}).get("steps", [])
        if len(steps) != 1 or set(steps[0]) != {"prune"}:
            return {}
        rest = {**self.settings, "compress": {**self.settings["compress"], "steps": []}}
        return steps[0]["prune"] if rest == self.baseline_settings else {}

    def sparsify_options(self) -> Settings:
        """Return the options of `sparsify`, and epochs, of a training that starts from the baseline's, else {}.

        Nothing but `sparsify` may differ from the baseline.
        """
        train = self.settings.get("train", {})
        hook = train.get("hook", train.get("while", {}))  # older matrices say "while"
        starts = self.settings.get("starts")
        if set(hook) != {"sparsify"} or train["steps"] or starts != [self.baseline_settings.get("train")]:
            return {}
        own, baseline = dict(self.settings), dict(self.baseline_settings)
        own.pop("starts")
        if own | {"train": None} != baseline | {"train": None}:
            return {}
        return {**hook["sparsify"], "epochs": train["training"]["epochs"]}

    def ratio(self, column: str, baseline_column: str = "") -> float:
        """Return `column` / the baseline's `baseline_column` (default: `column`); NaN if one is missing."""
        own, baseline = self.own[column], self.baseline[baseline_column or column]
        missing = pd.isna(own) or pd.isna(baseline) or not baseline
        return float("nan") if missing else float(own) / float(baseline)


def module_cells(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with a FID that differ from the same seed's baseline in one pruned module alone.

    Columns, MODULE_CELLS: dataset, model, seed, module; depth (position of the module in the order in which the network
    applies them); method (what is pruned, and the amount); ratio of the FID to the baseline's; LOSSES as ratios to the
    baseline's; fraction_removed, the share of the baseline's parameters that are zero or removed; macs_saved, the share
    of its multiply-accumulates. Missing numbers are NaN.
    """
    rows = []
    orders: dict[tuple[str, str], list[str]] = {}
    for pair in _pairs(matrix, f'"{MODULE}'):
        prune, own = pair.prune_options(), pair.own
        scope, ratio = str(prune.get("scope", "")), pair.ratio("fid_indomain")
        both_ok = own["status"] == pair.baseline["status"] == "ok" and ratio > 0
        if not scope.startswith(MODULE) or not both_ok:
            continue
        module, model = scope.removeprefix(MODULE), pair.settings["train"]["model"]
        order = orders.setdefault((own["dataset"], own["model"]), layers_of(model["family"], model["network"]) or [])
        layers = within(order, module)
        if not layers:  # a plugin's family lists no layers: take the order of the matrix
            order.append(module)
        row = {key: own[key] for key in ("dataset", "model", "seed")}
        depth = order.index((layers or [module])[0])
        row |= {"module": module, "depth": depth, "method": describe_prune(prune), "ratio": ratio}
        row |= {name: pair.ratio(name) for name in LOSSES}
        row |= {"fraction_removed": 1 - pair.ratio("params_nonzero", "params"), "macs_saved": 1 - pair.ratio("macs")}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(MODULE_CELLS))


def module_ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the geometric mean over seeds of the ratios of `module_cells` with its 95 % t-interval: MODULE_RATIOS."""
    rows = []
    names = ["dataset", "model", "module", "depth", "method"]
    for key, block in cells.groupby(names, sort=False):
        own = dict(zip(block["seed"], block["ratio"], strict=True))
        ratio = statistics.paired(own, dict.fromkeys(own, 1.0))
        numbers = {"seeds": ratio.n, "ratio": ratio.mean, "low": ratio.low, "high": ratio.high}
        rows.append({**dict(zip(names, key, strict=True)), **numbers})
    frame = pd.DataFrame(rows, columns=list(MODULE_RATIOS))
    return frame.sort_values("depth", kind="stable").reset_index(drop=True)


def sparse_recipes(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return the recipes that differ from the baseline in zero weights alone, of models with a curve to draw.

    They prune weights of the whole network or a part of it after training, or start from the baseline's training and
    `sparsify` in a further one. A model needs MIN_AMOUNTS of one method.

    Columns, SPARSE_RECIPES: dataset, model, optimization, method, amount (as configured), zeros (share of all
    parameters, mean over seeds), seeds, and fid_indomain with its 95 % t-interval over seeds (low, high).
    """
    methods: dict[statistics.Recipe, tuple[str, float]] = {}
    for pair in _pairs(matrix, '"prune"', '"sparsify"'):
        recipe = (pair.own["dataset"], pair.own["model"], pair.own["optimization"])
        method = _sparse_method(pair)
        if method is not None:
            methods.setdefault(recipe, method)
    amounts: dict[tuple[str, str, str], set[float]] = {}
    for recipe, (method_name, amount) in methods.items():
        amounts.setdefault((*recipe[:2], method_name), set()).add(amount)
    models = {key[:2] for key, values in amounts.items() if len(values) >= MIN_AMOUNTS}
    zeros = statistics.by_recipe(matrix.assign(zeros=1 - matrix["params_nonzero"] / matrix["params"]), "zeros")
    fids, rows = statistics.by_recipe(matrix, "fid_indomain"), []
    for recipe, method in methods.items():
        fid = fids[recipe]
        if recipe[:2] in models and fid.n:
            rows.append((*recipe, *method, zeros[recipe].mean, fid.n, fid.mean, fid.low, fid.high))
    return pd.DataFrame(rows, columns=list(SPARSE_RECIPES))


def describe_prune(prune: Settings) -> str:
    """Return a recipe's `prune` in words: method, criterion and amount."""
    words = [prune["method"], *(f"by {prune[key]}" for key in ("importance", "allocation") if key in prune)]
    return f"{' '.join(words)}, {100 * prune['amount']:g} %"


def _sparse_method(pair: PairedRow) -> tuple[str, float] | None:
    """Return how a recipe makes weights zero, and the amount; None if it does something else."""
    prune, sparsify = pair.prune_options(), pair.sparsify_options()
    if sparsify:
        until = f" until {100 * sparsify['until']:g} %" if "until" in sparsify else ""
        epochs = sparsify["epochs"]
        words = ["l1", f"{sparsify['schedule']}{until}", f"{epochs:g} more epoch{'s' if epochs != 1 else ''}"]
        return _with_options(words, sparsify), sparsify["amount"]
    if prune.get("method", "channels") in ("channels", "blocks") or prune["scope"].startswith(MODULE):
        return None
    return _with_options([prune["method"]], prune), prune["amount"]


def _with_options(words: list[str], options: Settings) -> str:
    """Join `words`, and the scope and allocation that are not DEFAULTS."""
    values = [options.get(key, default) for key, default in DEFAULTS.items()]
    return ", ".join([*words, *(value for value in values if value not in DEFAULTS.values())])


def _pairs(matrix: pd.DataFrame, *marks: str) -> Iterator[PairedRow]:
    """Yield the rows whose settings contain one of `marks` as text, each with its seed's baseline."""
    texts = matrix["settings"].fillna("").astype(str)
    marked = matrix[texts.map(lambda text: any(mark in text for mark in marks))].to_dict("records")
    baselines = matrix[matrix["optimization"] == BASELINE].to_dict("records")
    by_seed = {(row["dataset"], row["model"], row["seed"]): row for row in baselines}
    for row in marked:
        baseline = by_seed.get((row["dataset"], row["model"], row["seed"]))
        if baseline is not None and baseline["settings"]:
            yield PairedRow(row, baseline, json.loads(row["settings"]), json.loads(baseline["settings"]))
