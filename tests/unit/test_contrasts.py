"""benchmarks/scores/contrasts.py, on matrices whose effects are known."""

import importlib
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pytest
import synthetic
from presets import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "scores"))
contrasts = importlib.import_module("contrasts")


def rows(fids: Mapping[str, float], wobble: float = 0.0, **changes: Any) -> list[dict[str, Any]]:
    """Return three seeds of each recipe; `wobble` moves recipes, not the baseline, by seed."""
    return [
        synthetic.row(name, seed, fid_indomain=value, kid=value / 1000, **changes)
        for name, fid in fids.items()
        for seed in range(3)
        for value in [fid * (1 + seed) * math.exp(wobble * (seed - 1) * (name != "baseline"))]
    ]


def effects(found: Iterable[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["recipe"], row["against"]): row["ratio"] for row in found if row["metric"] == "fid_indomain"}


def test_samplers_are_compared_within_the_recipe_and_its_reference() -> None:
    fids = {"baseline": 10.0, "l1-30": 20.0, "euler-19": 15.0, "l1-30+euler-19": 90.0}
    frame = synthetic.frame(rows(fids, wobble=0.1))
    assert effects(contrasts.samplers(frame)) == {("l1-30", "euler-19"): pytest.approx((90 / 15) / (20 / 10))}


def test_curves_have_ratios_and_their_slope() -> None:
    """The cost of groups grows by 1.5 with each doubling; that of zeros stays."""
    fids = {"baseline": 50.0}
    for doubling, epochs in enumerate((0.5, 1, 2, 4)):
        fids |= {f"dense-{epochs}": 40 / epochs, f"groups-2-{epochs}": 40 / epochs * 1.5**doubling}
        fids |= {f"l1-70-{epochs}": 40 / epochs * 3}
    found = effects(contrasts.curves(synthetic.frame(rows(fids))))
    assert found["groups-2", "each doubling"] == pytest.approx(1.5)
    assert found["l1-70", "each doubling"] == pytest.approx(1.0)
    assert found["groups-2", "each doubling, its score"] == pytest.approx(0.75)
    assert found["dense", "each doubling, its score"] == pytest.approx(0.5)
    assert [found["groups-2", f"{epochs} epochs"] for epochs in (0.5, 1, 2, 4)] == pytest.approx([1, 1.5, 2.25, 3.375])


def test_data_sets_are_compared_by_recipe_and_rank() -> None:
    names = ("l1-10", "l1-30", "l1-70", "random-10")
    one = synthetic.frame(rows({"baseline": 10.0} | dict(zip(names, (11.0, 12.0, 40.0, 60.0), strict=True))))
    two = rows({"baseline": 30.0} | dict(zip(names, (33.0, 72.0, 120.0, 90.0), strict=True)), dataset="fashion_mnist")
    other = synthetic.frame(two)
    found = effects(contrasts.data_sets(one, other))
    assert found == {(name, "mnist"): pytest.approx(ratio) for name, ratio in zip(names, (1, 2, 1, 0.5), strict=True)}
    ranks = pd.Series([1.1, 1.2, 4, 6]).corr(pd.Series([1.1, 2.4, 4, 3]), method="spearman")
    assert [line[:4] for line in contrasts.rank_correlations(one, other)] == [
        ["ncsn", metric, "4", f"{ranks:.2f}"] for metric in contrasts.METRICS
    ]


def test_a_guides_scale_is_chosen_on_other_seeds() -> None:
    """Scale 2 is best at seed 0 alone, 1.5 at the other two: seed 0 is scored at 1.5, they at the mean of the rest."""
    fids = {"baseline": 10.0, "unguided-20": 10.0, "by-l1-30-1.5": 9.0, "by-l1-30-2": 9.5}
    cells = rows(fids)
    for cell in cells:
        if (cell["optimization"], cell["seed"]) == ("by-l1-30-2", 0):
            cell["fid_indomain"] = 1.0
    (found,) = [one for one in contrasts.guides(synthetic.frame(cells)) if one["metric"] == "fid_indomain"]
    assert (found["recipe"], found["seeds"]) == ("l1-30", 3)
    assert found["ratio"] == pytest.approx((0.9 * 0.95 * 0.95) ** (1 / 3)), (
        "2 looks better where seed 0 is among the others"
    )


def test_the_command_writes_table_and_figure(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fids = {"baseline": 10.0, "l1-30": 20.0, "euler-19": 15.0, "l1-30+euler-19": 90.0}
    fids |= {"dense-1": 9.0, "dense-2": 8.0, "l1-70-1": 12.0, "l1-70-2": 16.0}
    path = tmp_path / "matrix.parquet"
    monkeypatch.setattr(contrasts, "read_matrix", lambda _: synthetic.matrix(rows(fids, wobble=0.1)))
    monkeypatch.setattr(sys, "argv", ["contrasts.py", "samplers", str(path), "--out", str(tmp_path / "out")])
    contrasts.main()
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"contrasts.md", "contrasts.csv", "contrasts.svg"}
    assert "l1-" in (tmp_path / "out" / "contrasts.md").read_text(encoding="utf-8")
