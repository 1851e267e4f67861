"""Cells that differ from their baseline in one thing alone: one pruned module, or how many weights are zero and since
when."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.catalog.layers import MODULE, layers_of, within

REFERENCE = "baseline"
LOSSES = ("denoising_loss", "denoising_loss_low", "denoising_loss_middle", "denoising_loss_high")
PROXIES = (*LOSSES, "gone", "macs_saved")  # columns of `module_cells` that may tell the FID beforehand
MODULE_CELLS = ("dataset", "model", "seed", "module", "place", "way", "ratio", *PROXIES)
MODULE_RATIOS = ("dataset", "model", "module", "place", "way", "seeds", "ratio", "low", "high")
SPARSE_RECIPES = ("dataset", "model", "optimization", "way", "amount", "zeros", "seeds", "fid_indomain", "low", "high")
LEAST_AMOUNTS = 2  # of one way, for a curve

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Beside:
    """A row of the matrix and the baseline of its data set, model and seed, with the settings of both."""

    own: Mapping[Any, Any]
    base: Mapping[Any, Any]
    settings: Settings
    base_settings: Settings

    def prunes(self) -> Settings:
        """What is pruned after the training, where the baseline has the same of everything else; else nothing."""
        steps = self.settings.get("compress", {}).get("steps", [])
        if len(steps) != 1 or set(steps[0]) != {"prune"}:
            return {}
        rest = {**self.settings, "compress": {**self.settings["compress"], "steps": []}}
        return steps[0]["prune"] if rest == self.base_settings else {}

    def sparsifies(self) -> Settings:
        """The settings of a training that goes on from the baseline's and does no more than to `sparsify`; or none."""
        train = self.settings.get("train", {})
        meanwhile = train.get("while", {})
        starts = self.settings.get("starts")
        if set(meanwhile) != {"sparsify"} or train["steps"] or starts != [self.base_settings.get("train")]:
            return {}
        own, base = (dict(settings) for settings in (self.settings, self.base_settings))
        own.pop("starts")
        same = own | {"train": None} == base | {"train": None}
        return {**meanwhile["sparsify"], "epochs": train["training"]["epochs"]} if same else {}

    def ratio(self, column: str, to: str = "") -> float:
        """Of `column` to the baseline's `to`, which is the same column unless it is named; NaN where one is missing."""
        own, base = self.own[column], self.base[to or column]
        return float("nan") if pd.isna(own) or pd.isna(base) or not base else float(own) / float(base)


def module_cells(matrix: pd.DataFrame) -> pd.DataFrame:
    """The cells with a FID whose only difference from the same seed's baseline is that one module of it was pruned.

    Columns, MODULE_CELLS: dataset, model, seed, module; place of the module in its network, which orders them from the
    image over the bottom of the U to the image; way (what was done, and how much of the module's weights or channels
    went); ratio of FID to the baseline's; of LOSSES the ratio to the baseline's; gone, the share of the baseline's
    parameters that are zero or are no more; macs_saved, the share of its multiply-accumulates. Missing numbers are NaN.
    """
    rows = []
    orders: dict[tuple[str, str], list[str]] = {}
    for pair in _beside_baseline(matrix, f'"{MODULE}'):
        prune, own = pair.prunes(), pair.own
        scope, ratio = str(prune.get("scope", "")), pair.ratio("fid_indomain")
        sound = own["status"] == pair.base["status"] == "ok" and ratio > 0
        if not scope.startswith(MODULE) or not sound:
            continue
        module, model = scope.removeprefix(MODULE), pair.settings["train"]["model"]
        order = orders.setdefault((own["dataset"], own["model"]), layers_of(model["family"], model["network"]) or [])
        inside = within(order, module)
        if not inside:  # of a plugin's family, whose layers nobody lists: as the matrix names them
            order.append(module)
        row = {key: own[key] for key in ("dataset", "model", "seed")}
        row |= {"module": module, "place": order.index((inside or [module])[0]), "way": way(prune), "ratio": ratio}
        row |= {name: pair.ratio(name) for name in LOSSES}
        rows.append(row | {"gone": 1 - pair.ratio("params_nonzero", "params"), "macs_saved": 1 - pair.ratio("macs")})
    return pd.DataFrame(rows, columns=list(MODULE_CELLS))


def module_ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """Over the seeds of `module_cells`: the geometric mean of their ratios with its 95 % t-interval, MODULE_RATIOS."""
    rows = []
    names = ["dataset", "model", "module", "place", "way"]
    for key, block in cells.groupby(names, sort=False):
        own = dict(zip(block["seed"], block["ratio"], strict=True))
        found = statistics.paired(own, dict.fromkeys(own, 1.0))
        numbers = {"seeds": found.n, "ratio": found.mean, "low": found.low, "high": found.high}
        rows.append({**dict(zip(names, key, strict=True)), **numbers})
    frame = pd.DataFrame(rows, columns=list(MODULE_RATIOS))
    return frame.sort_values("place", kind="stable").reset_index(drop=True)


def sparse_recipes(matrix: pd.DataFrame) -> pd.DataFrame:
    """The recipes whose only difference from the baseline is weights that are zero, of models with a curve to draw.

    These prune weights of the whole network or a part of it after its training, or start from the baseline's training
    and `sparsify` in a further one. A model is in it that has LEAST_AMOUNTS of one way or more.

    Columns, SPARSE_RECIPES: dataset, model, optimization, way, amount (as set), zeros (share of all parameters, mean
    over seeds), seeds, and fid with its 95 % t-interval over them.
    """
    ways: dict[statistics.Recipe, tuple[str, float]] = {}
    for pair in _beside_baseline(matrix, '"prune"', '"sparsify"'):
        recipe = (pair.own["dataset"], pair.own["model"], pair.own["optimization"])
        found = _sparse_way(pair)
        if found is not None:
            ways.setdefault(recipe, found)
    amounts: dict[tuple[str, str, str], set[float]] = {}
    for recipe, (name, amount) in ways.items():
        amounts.setdefault((*recipe[:2], name), set()).add(amount)
    curved = {key[:2] for key, known in amounts.items() if len(known) >= LEAST_AMOUNTS}
    zeros = statistics.by_recipe(matrix.assign(zeros=1 - matrix["params_nonzero"] / matrix["params"]), "zeros")
    fids, rows = statistics.by_recipe(matrix, "fid_indomain"), []
    for recipe, (name, amount) in ways.items():
        fid = fids[recipe]
        if recipe[:2] in curved and fid.n:
            row = dict(zip(("dataset", "model", "optimization"), recipe, strict=True))
            numbers = {
                "zeros": zeros[recipe].mean,
                "seeds": fid.n,
                "fid_indomain": fid.mean,
                "low": fid.low,
                "high": fid.high,
            }
            rows.append({**row, "way": name, "amount": amount, **numbers})
    return pd.DataFrame(rows, columns=list(SPARSE_RECIPES))


def way(prune: Settings) -> str:
    """What a recipe's `prune` does to a module, in words: its method, what it goes by, and how much."""
    words = [prune["method"], *(f"by {prune[key]}" for key in ("importance", "allocation") if key in prune)]
    return f"{' '.join(words)}, {100 * prune['amount']:g} %"


def _sparse_way(pair: Beside) -> tuple[str, float] | None:
    """The way in which a recipe makes weights zero, and how many; None where it does something else."""
    prune, sparsify = pair.prunes(), pair.sparsifies()
    if sparsify:
        until = f" until {100 * sparsify['until']:g} %" if "until" in sparsify else ""
        epochs = sparsify["epochs"]
        words = ["l1", f"{sparsify['schedule']}{until}", f"{epochs} more epoch{'s' if epochs != 1 else ''}"]
        return _named(words, sparsify), sparsify["amount"]
    if prune.get("method", "channels") == "channels" or prune["scope"].startswith(MODULE):
        return None
    return _named([prune["method"]], prune), prune["amount"]


def _named(words: list[str], options: Settings) -> str:
    """`words` with the scope and the allocation, where these are not the plain ones."""
    more = [options.get(key, plain) for key, plain in (("scope", "global"), ("allocation", "pool"))]
    return ", ".join([*words, *(word for word in more if word not in ("global", "pool"))])


def _beside_baseline(matrix: pd.DataFrame, *marks: str) -> Iterator[Beside]:
    """The rows whose settings hold one of `marks`, as text, each beside its seed's baseline."""
    texts = matrix["settings"].fillna("").astype(str)
    chosen = matrix[texts.map(lambda text: any(mark in text for mark in marks))].to_dict("records")
    bases = matrix[matrix["optimization"] == REFERENCE].to_dict("records")
    by_seed = {(row["dataset"], row["model"], row["seed"]): row for row in bases}
    for row in chosen:
        base = by_seed.get((row["dataset"], row["model"], row["seed"]))
        if base is not None and base["settings"]:
            yield Beside(row, base, json.loads(row["settings"]), json.loads(base["settings"]))
