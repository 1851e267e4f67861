"""Ablations of modules and of sparsity: which cells they contain, and tables and figures with known answers."""

import itertools
import math
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from presets import preset
from scipy import stats

from slimdiff.analysis import ablations, findings, guidance, proxies
from slimdiff.analysis.matrix import Matrix
from slimdiff.catalog.layers import layers_of, modules
from slimdiff.config import resolve
from slimdiff.io.settings import canonical
from slimdiff.report.figures import ablations as studyplots
from slimdiff.report.figures import guidance as guidedplots
from slimdiff.report.figures import style
from slimdiff.report.tables import proxies as proxytables

SENSITIVITY = preset("sensitivity.yaml")
OPEN = preset("open-questions.yaml")
OPEN_RECIPES = [
    (entry["model"], name)
    for entry in OPEN["matrix"]
    for name in entry["optimizations"]
    if name in OPEN["optimizations"]
]
MODULES = ("conv1", "conv2", "conv3", "conv4", "tconv4", "tconv3")


def settings_of(recipe: str, seed: int = 0, model: str = "ncsn", config: dict[str, Any] = SENSITIVITY) -> str:
    """Return the settings that a run would have written."""
    return canonical(resolve.row_settings(config, "mnist", model, recipe, seed)["settings"])


def row(recipe: str, seed: int = 0, model: str = "ncsn", config: dict[str, Any] = SENSITIVITY, **changes: Any) -> Any:
    """Return a row of `config` with a FID of 10 and no zeros; `changes` replace its values."""
    plain = {"fid_indomain": 10.0, **dict.fromkeys(ablations.LOSSES, 50.0), "params_nonzero": 1_000_000, **changes}
    return synthetic.row(recipe, seed, model=model, settings=settings_of(recipe, seed, model, config), **plain)


def study(seeds: int = 1, method: str = "l1") -> list[dict[str, Any]]:
    """Modules with FIDs of 20, 40, 80, …: the loss rises, its low-noise part falls, its high-noise part is mixed."""
    rows = [row("baseline", seed) for seed in range(seeds)]
    for (place, module), seed in itertools.product(enumerate(MODULES), range(seeds)):
        losses = {"denoising_loss": 51.0 + place**2, "denoising_loss_low": 40.0 - place}
        losses |= {"denoising_loss_high": 50.0 + (3, 1, 4, 2, 6, 5)[place]}
        removed = {"params_nonzero": 1_000_000 - 1000 * (place + 1)}
        rows.append(row(f"{method}-50-{module}", seed, fid_indomain=20.0 * 2**place, **losses, **removed))
    return rows


def proxy_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return proxies.table(ablations.module_cells(synthetic.frame(rows)))


def correlations(rows: list[dict[str, Any]], method: str = proxies.ALL) -> pd.DataFrame:
    frame = proxy_table(rows)
    return frame[frame["method"] == method].set_index("proxy")


@pytest.mark.parametrize("model", ["ncsn", "ddpm"])
def test_the_presets_cells_form_the_study_in_network_order(model: str) -> None:
    entry = next(entry for entry in SENSITIVITY["matrix"] if entry["model"] == model)
    names = entry["optimizations"][::-1]  # the order of the matrix must not matter
    found = ablations.module_cells(synthetic.frame(row(name, model=model) for name in names))
    assert len(found) == len(names) - 1
    methods = itertools.product(("random", "l1", "channels by l1"), (50, 90))
    assert set(found["method"]) == {f"{method}, {amount} %" for method, amount in methods}
    options = SENSITIVITY["models"][model]
    expected = modules(layers_of(options["family"], options["network"]) or [])
    assert list(dict.fromkeys(ablations.module_ratios(found)["module"])) == expected


def test_cells_that_differ_in_more_than_one_module_are_excluded() -> None:
    """Other sampler, weights, engine or seed, a second step, a failure on either side, no baseline."""
    config = {**SENSITIVITY, "optimizations": dict(SENSITIVITY["optimizations"])}
    pruned = config["optimizations"]["l1-50-conv2"]
    others = {
        "steps": {"sampler": {"steps": 4}},
        "ema": {"weights": "ema"},
        "bf16": {"precision": "bf16"},
        "both": {"quantize": {"linear": "8bit"}},
        "other": {"training": "groups-2"},
        "whole": {"prune": {**pruned["prune"], "scope": "global"}},
    }
    config["optimizations"] |= {name: {**pruned, **change} for name, change in others.items()}
    rows = [row("baseline"), row("l1-50-conv2"), *(row(name, config=config) for name in others)]
    rows += [row("l1-50-conv3", status="failed"), row("l1-50-conv4", seed=1), row("l1-50-conv1", fid_indomain=None)]
    rows += [row("baseline", 2, status="failed"), row("l1-50-conv1", 2)]
    found = ablations.module_cells(synthetic.frame(rows))
    assert found[["module", "seed"]].to_numpy().tolist() == [["conv2", 0]]


def test_numbers_are_relative_to_the_baseline_of_the_same_seed() -> None:
    rows = [row("baseline", seed, fid_indomain=10.0 * (seed + 1), macs=200) for seed in (0, 1)]
    pruned = {"denoising_loss": 75.0, "denoising_loss_high": None, "params_nonzero": 600_000, "macs": 50}
    rows += [row("channels-50-conv2", seed, fid_indomain=40.0 * (seed + 1) ** 2, **pruned) for seed in (0, 1)]
    cells = ablations.module_cells(synthetic.frame(rows))
    assert cells["ratio"].tolist() == [4.0, 8.0]
    first = cells.iloc[0]
    assert (first["denoising_loss"], first["denoising_loss_low"]) == (1.5, 1.0)
    assert math.isnan(first["denoising_loss_high"])
    assert first["fraction_removed"] == pytest.approx(0.4)
    assert first["macs_saved"] == pytest.approx(0.75)
    (ratio,) = ablations.module_ratios(cells).to_dict("records")
    expected = stats.ttest_1samp(np.log([4.0, 8.0]), 0).confidence_interval(0.95)
    assert ratio["ratio"] == pytest.approx(math.sqrt(32))
    assert [ratio["low"], ratio["high"]] == pytest.approx(np.exp(list(expected)).tolist())


def test_a_monotone_proxy_correlates_perfectly_and_a_constant_one_is_undefined() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = correlations(study())
    assert found.loc["denoising_loss", ["rho", "low", "high"]].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert found.loc["fraction_removed", "rho"] == pytest.approx(1.0)
    assert found.loc["denoising_loss_low", "rho"] == pytest.approx(-1.0)
    for constant in ("denoising_loss_middle", "macs_saved"):
        assert found.loc[constant, ["rho", "low", "high", "best_share"]].isna().all()
    assert found.loc["denoising_loss_high", "rho"] == pytest.approx(
        stats.spearmanr(range(6), (3, 1, 4, 2, 6, 5)).statistic
    )
    best = found["best_share"]
    assert best[["denoising_loss", "fraction_removed"]].tolist() == [1.0, 1.0]
    assert 0 <= best["denoising_loss_low"] < best["denoising_loss_high"] < 0.3  # it ties for the best in some draws
    assert set(found["modules"]) == {6}


def test_missing_values_and_too_few_modules_give_no_correlation() -> None:
    rows = study()
    rows[2]["denoising_loss"] = None
    found = correlations(rows)["rho"]
    assert math.isnan(found["denoising_loss"])
    assert found["fraction_removed"] == pytest.approx(1.0)
    assert correlations(study()[:3])["rho"].isna().all()
    assert proxy_table([row("baseline")]).empty


def test_seeds_do_not_count_as_modules() -> None:
    """Repeating the same numbers three times changes no correlation and no interval."""
    one, three = correlations(study(1)), correlations(study(3))
    numbers = ["rho", "low", "high", "best_share"]
    assert three[numbers].to_numpy() == pytest.approx(one[numbers].to_numpy(), nan_ok=True)
    assert one.loc["denoising_loss_high", "low"] < one.loc["denoising_loss_high", "rho"]
    assert set(three["cells"]) == {18}


def test_each_method_has_a_row_and_all_methods_together_have_one() -> None:
    methods = proxy_table(study() + study(method="random")[1:])["method"]
    assert list(dict.fromkeys(methods)) == ["all", "l1, 50 %", "random, 50 %"]
    assert set(proxy_table(study())["method"]) == {"all"}


def test_rank_correlations_equal_scipys() -> None:
    generator = np.random.default_rng(3)
    outcome = generator.integers(0, 12, 40).astype(float)  # with ties
    others = generator.integers(0, 9, (5, 40)).astype(float)
    expected = [stats.spearmanr(outcome, other).statistic for other in others]
    assert proxies.rank_correlations(outcome, others) == pytest.approx(np.array(expected))


def test_the_table_marks_the_best_proxy_or_says_that_there_is_none() -> None:
    lines = proxytables.to_markdown(proxy_table(study())).splitlines()
    bold = [line for line in lines if "**" in line]
    assert len(bold) == 2  # the loss and the share of zeros order the modules alike
    assert all(re.search(r"\| 1\.00( \[1\.00, 1\.00\])? \| 100 % \|$", line) for line in bold)
    saved = next(line for line in lines if "multiply-accumulates saved" in line)
    assert saved.endswith("| – | – |")
    empty = proxytables.to_markdown(proxy_table([row("baseline")]))
    assert proxytables.NONE in empty
    assert "| proxy |" not in empty


def drawn(chart: Any) -> list[dict[str, Any]]:
    return [found for rows in chart.to_dict()["datasets"].values() for found in rows]


def test_the_sensitivity_figure_shows_each_modules_ratio() -> None:
    matrix = synthetic.matrix(study(2) + study(2, "random")[2:])
    chart = studyplots.sensitivity(findings.find(matrix, synthetic.MARGINS), "a title")
    ratios = {(found["module"], found["method"]): found["ratio"] for found in drawn(chart) if "module" in found}
    expected = {module: 2.0 * 2**place for place, module in enumerate(MODULES)}
    assert ratios == {(m, w): pytest.approx(expected[m]) for m in MODULES for w in ("l1, 50 %", "random, 50 %")}
    (panel,) = chart.to_dict()["vconcat"]
    assert panel["title"]["text"] == "mnist, ncsn"
    domains = [layer["encoding"]["x"]["scale"]["domain"] for layer in panel["layer"] if "x" in layer["encoding"]]
    assert domains == [list(MODULES)] * 3


def test_the_sensitivity_figure_has_a_colour_per_method_and_a_shape_per_amount() -> None:
    config = {**SENSITIVITY, "optimizations": dict(SENSITIVITY["optimizations"])}
    for amount in (5, 50, 12.5):
        prune = {"method": "l1", "amount": amount / 100, "scope": "module:conv2"}
        config["optimizations"][f"l1-{amount}"] = {"training": "plain", "prune": prune}
    names = ["baseline", "random-50-conv1", "channels-90-conv1", "l1-5", "l1-50", "l1-12.5"]
    matrix = synthetic.matrix(row(name, config=config) for name in names)
    (panel,) = studyplots.sensitivity(findings.find(matrix, synthetic.MARGINS), "a title").to_dict()["vconcat"]
    points = panel["layer"][-1]["encoding"]
    assert points["color"]["scale"]["domain"] == ["channels by l1", "l1", "random"]
    assert points["shape"]["scale"]["domain"] == ["5 %", "12.5 %", "50 %", "90 %"]


def test_a_figure_of_many_data_sets_stays_small() -> None:
    rows = [{**row, "dataset": f"photos-{number}"} for row in study()[:3] for number in range(8)]
    chart = studyplots.sensitivity(findings.find(synthetic.matrix(rows), synthetic.MARGINS), "a title").to_dict()
    assert len(chart["vconcat"]) == style.MAX_PANELS
    assert any("photos-6, ncsn; photos-7, ncsn" in line for line in chart["title"]["subtitle"])


@pytest.fixture(scope="module")
def sparse() -> Matrix:
    """The recipes of the open questions; pruning ones have their amount of zeros, and a FID that rises with it."""
    rows = []
    for (model, name), seed in itertools.product(OPEN_RECIPES, (0, 1)):
        amount = int(found[0]) / 100 if (found := re.findall(r"\d\d", name)) else 0.0
        numbers = {"fid_indomain": 10 + 100 * amount + seed, "params_nonzero": round(1_000_000 * (1 - amount))}
        rows.append(row(name, seed, model, OPEN, **numbers))
    return synthetic.matrix(rows)


def test_curves_show_only_recipes_that_prune_and_nothing_else(sparse: Matrix) -> None:
    found = ablations.sparse_recipes(sparse.frame)
    recipes, trainings = OPEN["optimizations"], OPEN["trainings"]
    for name in set(sparse.frame["optimization"]) - set(found["optimization"]):
        recipe = recipes[name]
        makes_zeros = "prune" in recipe or "sparsify" in trainings[recipe["training"]]
        assert not makes_zeros or set(recipe) - {"training", "prune"}, f"{name} has no place in the figure"
    assert len(found) >= 10
    for each in found.to_dict("records"):
        recipe = recipes[each["optimization"]]
        options = recipe.get("prune") or trainings[recipe["training"]]["sparsify"]
        assert each["amount"] == options["amount"]
        assert each["zeros"] == pytest.approx(each["amount"])
        assert each["fid_indomain"] == pytest.approx(10.5 + 100 * each["amount"], rel=0.002)
        assert each["low"] < each["fid_indomain"] < each["high"]
        assert str(options.get("allocation", options.get("schedule", options.get("method")))) in each["method"]
    for _, curve in found.groupby(["model", "method"]):
        assert curve["amount"].is_unique, "a method has one recipe for each amount"


def test_curves_need_two_amounts(sparse: Matrix) -> None:
    points = [
        found
        for found in drawn(studyplots.sparsity(findings.find(sparse, synthetic.MARGINS), "a title"))
        if "zeros" in found
    ]
    known = ablations.sparse_recipes(sparse.frame)
    assert {(found["optimization"], found["fid_indomain"]) for found in points} == set(
        zip(known["optimization"], known["fid_indomain"], strict=True)
    )
    frame = sparse.frame[(sparse.frame["model"] == "ncsn") & sparse.frame["optimization"].isin(["baseline", "l1-50"])]
    assert ablations.sparse_recipes(frame).empty
    ncsn = replace(sparse, frame=frame)
    texts = [
        found.get("text", "") for found in drawn(studyplots.sparsity(findings.find(ncsn, synthetic.MARGINS), "a title"))
    ]
    assert any("No model of this matrix" in text for text in texts)


def guided_row(recipe: str, seed: int, model: str, fid: float, **changes: Any) -> Any:
    return row(recipe, seed, model, OPEN, fid_indomain=fid, **changes)


def test_each_class_conditional_model_has_a_line_over_guidance() -> None:
    """The unconditional model is drawn separately, and a baseline already on the line is not drawn twice."""
    rows = [guided_row("baseline", seed, "ncsn", 80.0) for seed in range(3)]
    scales = {"guidance-0": 0.0, "guidance-1": 1.0, "guidance-1.5": 1.5, "guidance-3": 3.0}
    for (recipe, scale), model, seed in itertools.product(scales.items(), ("ncsn-conditional", "ddpm"), range(3)):
        rows.append(guided_row(recipe, seed, model, 10 + scale + seed, class_accuracy=0.5 + scale / 10))
    rows += [guided_row("baseline", seed, "ddpm", 1000.0) for seed in range(3)]
    rows += [guided_row("l1-50", seed, "ddpm", 1000.0) for seed in range(3)]
    matrix = synthetic.matrix(rows)
    found = guidance.guided_recipes(matrix.frame)
    means = {scale: math.prod(10 + scale + seed for seed in range(3)) ** (1 / 3) for scale in scales.values()}
    expected = {(model, scale): mean for model in ("ncsn-conditional", "ddpm") for scale, mean in means.items()}
    drawn_fids = {(each["line"], each["guidance"]): each["fid_indomain"] for each in found.to_dict("records")}
    assert drawn_fids == pytest.approx(expected)
    assert set(found["seeds"]) == {3}
    assert found["class_accuracy"].tolist() == pytest.approx((0.5 + found["guidance"] / 10).tolist())
    for each in found.to_dict("records"):
        logs = np.log([10 + each["guidance"] + seed for seed in range(3)])
        reach = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / 3**0.5
        assert each["fid_indomain_high"] == pytest.approx(math.exp(logs.mean() + reach))
    assert guidance.unconditional_models(matrix.frame).to_dict("records") == [
        {"dataset": "mnist", "model": "ncsn", "fid_indomain": pytest.approx(80.0)}
    ]

    chart = guidedplots.figure(findings.find(matrix, synthetic.MARGINS), "a title")
    texts = [str(each.get("text")) for each in drawn(chart)]
    assert "ncsn, unconditional" in texts
    assert len(chart.to_dict()["vconcat"]) == guidedplots.PANELS_PER_DATASET


def test_a_pruned_network_at_several_scales_has_its_own_line() -> None:
    config = {**OPEN, "optimizations": dict(OPEN["optimizations"])}
    for scale in (0, 3):
        config["optimizations"][f"pruned-{scale}"] = {**OPEN["optimizations"]["l1-50"], "sampler": {"guidance": scale}}
    names = ["guidance-3", "guidance-0", "pruned-0", "pruned-3", "l1-70"]
    matrix = synthetic.matrix(row(name, 5, "ddpm", config) for name in names)
    found = guidance.guided_recipes(matrix.frame)
    lines = found.groupby("line")["guidance"].apply(list).to_dict()
    assert lines == {"ddpm, guidance-0": [0.0, 3.0], "ddpm, pruned-0": [0.0, 3.0]}


def test_one_scale_or_an_unconditional_model_has_no_line() -> None:
    matrix = synthetic.matrix([row("guidance-3", model="ddpm"), row("baseline"), row("l1-50")])
    assert guidance.guided_recipes(matrix.frame).empty
    texts = [
        str(each.get("text")) for each in drawn(guidedplots.figure(findings.find(matrix, synthetic.MARGINS), "a title"))
    ]
    assert guidedplots.EMPTY in texts
