"""Which cheap number, known before any image is drawn, ranks pruned modules as their FID does."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from slimdiff.analysis import ablations, statistics

RESAMPLES = 1000
SEED = 0  # of the bootstrap
LEAST_MODULES = 3  # of which more than one order can be
ALL = "all"  # ways together
TIED = 1e-9  # correlations nearer to each other are equal but for rounding
TABLE = ("dataset", "model", "way", "proxy", "modules", "cells", "rho", "low", "high", "best_share")

Numbers = NDArray[np.float64]


def table(matrix: pd.DataFrame) -> pd.DataFrame:
    """One row per proxy for each data set, model and way of a study of modules, and for all ways of a model together.

    rho is Spearman's rank correlation over cells between the logarithm of FID's ratio to the same seed's baseline and
    the proxy (`studies.PROXIES`); low and high are the 95 % percentile interval of a bootstrap that draws modules, each
    with all of its cells, since the seeds and ways of one module are no independent cells; best_share says in which
    share of these draws no other proxy's correlation is larger. NaN: the proxy is the same in all cells, is missing in
    one, or there are fewer than LEAST_MODULES modules.
    """
    cells, rows = ablations.module_cells(matrix), []
    for (dataset, model), block in cells.groupby(["dataset", "model"], sort=False):
        ways = sorted(set(block["way"]))
        for way in [ALL, *(ways if len(ways) > 1 else [])]:
            own = block if way == ALL else block[block["way"] == way]
            modules = own["module"].nunique()
            known = {"dataset": dataset, "model": model, "way": way, "modules": modules, "cells": len(own)}
            found = _correlations(own) if modules >= LEAST_MODULES else np.full((4, len(ablations.PROXIES)), np.nan)
            names = ("rho", "low", "high", "best_share")
            for proxy, numbers in zip(ablations.PROXIES, found.T.tolist(), strict=True):
                rows.append({**known, "proxy": proxy, **dict(zip(names, numbers, strict=True))})
    return pd.DataFrame(rows, columns=list(TABLE))


def rank_correlations(outcome: Numbers, proxies: Numbers) -> Numbers:
    """Spearman's rank correlation of outcome (n,) with each row of proxies (k, n): (k,).

    Ties get their mean rank. NaN where either side is constant or holds a NaN.
    """
    ranks = stats.rankdata(np.vstack([outcome, proxies]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1))
    scale = norms[0] * norms[1:]
    missing = np.full(len(proxies), np.nan)
    result: Numbers = np.divide(ranks[1:] @ ranks[0], scale, out=missing, where=scale > 0)
    return result


def _correlations(cells: pd.DataFrame) -> Numbers:
    """Rows: correlation, both ends of its interval, share of draws in which it is the best; a column per proxy."""
    outcome = np.log(cells["ratio"].to_numpy(float))
    proxies = cells[list(ablations.PROXIES)].to_numpy(float).T
    rho = rank_correlations(outcome, proxies)
    places = [np.flatnonzero(cells["module"] == module) for module in cells["module"].unique()]
    generator = np.random.default_rng(SEED)
    draws = np.empty((RESAMPLES, len(proxies)))
    for draw in draws:
        chosen = np.concatenate([places[place] for place in generator.integers(len(places), size=len(places))])
        draw[:] = rank_correlations(outcome[chosen], proxies[:, chosen])
    known = ~np.isnan(rho)
    result = np.vstack([rho, np.full((3, len(rho)), np.nan)])
    # Draws in which one module stands for all have no correlation; they say nothing of any proxy.
    whole = draws[:, known][~np.isnan(draws[:, known]).any(axis=1)]
    if known.any() and len(whole):
        outside = (1 - statistics.CONFIDENCE) / 2
        result[1:3, known] = np.quantile(whole, [outside, 1 - outside], axis=0)
        result[3, known] = (whole > whole.max(axis=1, keepdims=True) - TIED).mean(axis=0)
    return result
