"""Cheap proxies: how well numbers that need no samples rank pruned modules by their FID."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from slimdiff.analysis.ablations import PROXIES
from slimdiff.analysis.statistics import CONFIDENCE

RESAMPLES = 1000
SEED = 0  # of the bootstrap
MIN_MODULES = 3  # fewer have no informative order
ALL = "all"  # all methods together
TIE_TOLERANCE = 1e-9  # correlations closer than this differ by rounding alone
TABLE = ("dataset", "model", "method", "proxy", "modules", "cells", "rho", "low", "high", "best_share")

Numbers = NDArray[np.float64]


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row per proxy for each data set, model and method of `ablations.module_cells`, and for all methods.

    rho is Spearman's rank correlation over cells between log(FID / the same seed's baseline FID) and the proxy
    (PROXIES). low and high are the 95 % percentile interval of a bootstrap over modules, each with all of its cells:
    seeds and methods of one module are not independent. best_share is the share of resamples in which no other proxy
    has a larger correlation. NaN: the proxy is constant, is missing in a cell, or there are fewer than MIN_MODULES.
    """
    rows = []
    for (dataset, model), block in cells.groupby(["dataset", "model"], sort=False):
        methods = sorted(set(block["method"]))
        for method in [ALL, *(methods if len(methods) > 1 else [])]:
            own = block if method == ALL else block[block["method"] == method]
            modules = own["module"].nunique()
            head = {"dataset": dataset, "model": model, "method": method, "modules": modules, "cells": len(own)}
            numbers = _correlations(own) if modules >= MIN_MODULES else np.full((4, len(PROXIES)), np.nan)
            names = ("rho", "low", "high", "best_share")
            for proxy, column in zip(PROXIES, numbers.T.tolist(), strict=True):
                rows.append({**head, "proxy": proxy, **dict(zip(names, column, strict=True))})
    return pd.DataFrame(rows, columns=list(TABLE))


def rank_correlations(outcome: Numbers, proxies: Numbers) -> Numbers:
    """Return Spearman's rank correlation of outcome (n,) with each row of proxies (k, n): (k,).

    Ties get their mean rank. NaN if either side is constant or contains a NaN.
    """
    ranks = stats.rankdata(np.vstack([outcome, proxies]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=1))
    scale = norms[0] * norms[1:]
    missing = np.full(len(proxies), np.nan)
    result: Numbers = np.divide(ranks[1:] @ ranks[0], scale, out=missing, where=scale > 0)
    return result


def _correlations(cells: pd.DataFrame) -> Numbers:
    """Return (4, proxies): correlation, both ends of its interval, share of resamples in which it is the largest."""
    outcome = np.log(cells["ratio"].to_numpy(float))
    proxies = cells[list(PROXIES)].to_numpy(float).T
    rho = rank_correlations(outcome, proxies)
    rows_of = [np.flatnonzero(cells["module"] == module) for module in cells["module"].unique()]
    generator = np.random.default_rng(SEED)
    resamples = np.empty((RESAMPLES, len(proxies)))
    for resample in resamples:
        chosen = np.concatenate([rows_of[module] for module in generator.integers(len(rows_of), size=len(rows_of))])
        resample[:] = rank_correlations(outcome[chosen], proxies[:, chosen])
    defined = ~np.isnan(rho)
    result = np.vstack([rho, np.full((3, len(rho)), np.nan)])
    # Resamples of a single module have no correlation, whatever the proxy.
    complete = resamples[:, defined][~np.isnan(resamples[:, defined]).any(axis=1)]
    if defined.any() and len(complete):
        tail = (1 - CONFIDENCE) / 2
        result[1:3, defined] = np.quantile(complete, [tail, 1 - tail], axis=0)
        result[3, defined] = (complete > complete.max(axis=1, keepdims=True) - TIE_TOLERANCE).mean(axis=0)
    return result
