"""What README and docs/results say follows from the published matrices, by the code of today."""

import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
import pytest
from presets import CONFIG, ROOT, read_yaml

from slimdiff.analysis import findings, statistics
from slimdiff.analysis.claims import file, verdicts
from slimdiff.analysis.claims.verdicts import Verdict
from slimdiff.analysis.decisions import EQUIVALENT, UNRESOLVED, Margins
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix, read_matrix, read_paper, schema_problem
from slimdiff.analysis.statistics import Ratio, Summary
from slimdiff.cli import publish
from slimdiff.report import study
from slimdiff.report.tables import differences as differencetables
from slimdiff.report.tables.write import cells_markdown

RESULTS = ROOT / "docs" / "results"
RESOURCES = ROOT / "workflow" / "resources"
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARGINS = Margins(**CONFIG["verdicts"]["margins"])
sys.path.insert(0, str(ROOT / "benchmarks" / "scores"))
contrasts = importlib.import_module("contrasts")


# Published before columns were added; each leaves the list with its next run.
OLDER_COLUMNS = {"cifar10", "open-questions", "slim"}
# Page → question of benchmarks/scores/contrasts.py, and what else it takes. Pages may cite contrasts, too.
CONTRASTS: dict[str, tuple[str, ...]] = {
    "autoguidance": ("guides",),
    "compression-sampler": ("samplers",),
    "fashion": ("data-sets", "fashion-twin"),
    "fashion-modules": ("data-sets", "sensitivity"),
    "learning-curves": ("curves",),
}
INTERVAL = re.compile(r"(-?\d+(?:\.\d+)?)(?: %| points| MB)? \[(-?\d+(?:\.\d+)?)(?: %)?, (-?\d+(?:\.\d+)?)")
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/matrix.parquet"))


def read_page(name: str) -> str:
    return (RESULTS / name / "README.md").read_text(encoding="utf-8")


@cache
def matrix(name: str) -> Matrix:
    return read_matrix(RESULTS / name / "matrix.parquet")


@cache
def found(name: str) -> Findings:
    return findings.find(matrix(name), MARGINS)


def shown(number: Ratio | Summary, decimals: int = 2) -> str:
    mean, low, high = (f"{value:.{decimals}f}" for value in (number.mean, number.low, number.high))
    return f"{mean} [{low}, {high}]"


def readme_intervals() -> Iterator[tuple[str, str]]:
    """Yield the text of every interval in README's findings, computed from the matrices."""
    for name, model, recipe, columns in (
        ("paper-cpu", "ncsn", "groups-2", ("fid_indomain", "kid")),
        ("paper-cpu", "ddpm", "groups-2+random-10", ("fid_indomain", "kid")),
        ("paper-cpu", "ddpm", "random-10", ("fid_indomain",)),
        ("paper-cpu", "ddpm", "linear-8bit-frozen", ("relative_time",)),
    ):
        for column in columns:
            yield f"{model} {recipe} {column}", shown(found(name).ratio(column, ("mnist", model, recipe)))
    halved = ("digit-images", "own", "uniform-50-distilled")
    yield "own channels", shown(found("own-model").ratio("fid_indomain", halved))
    for model, recipe in (("ncsn", "compile-bf16"), ("ncsn", "openvino-int8")):
        yield f"{recipe} speed", shown(found("slim").ratio("relative_time", ("mnist", model, recipe)).inverse)
    slopes = contrasts_of("learning-curves").query("against.str.endswith('score') and metric == 'fid_indomain'")
    for each in slopes[slopes["recipe"].isin(["dense", "l1-70", "channels-50"])].itertuples():
        yield f"{each.model} {each.recipe}", f"{each.ratio:.2f} [{each.low:.2f}, {each.high:.2f}]"


def test_every_interval_in_the_readme_is_in_a_matrix() -> None:
    text = " ".join(README.partition("## Findings")[2].partition("\n## ")[0].split())
    computed = dict(readme_intervals())
    for what, interval in computed.items():
        assert interval in text, what
    printed = re.findall(r"-?\d+\.\d+(?: points)? \[-?\d+\.\d+, -?\d+\.\d+\]", text)
    printed = [interval for interval in printed if interval not in of_bottom("sensitivity")]
    assert sorted(printed) == sorted(computed.values()), "an interval that no matrix holds"


def test_other_figures_in_the_readme() -> None:
    text = " ".join(README.split())
    slim = found("slim")
    for results, model, recipe in (
        (slim, "ncsn", "compile-bf16"),
        (slim, "ncsn", "openvino-int8"),
    ):
        share = results.ratio("size_packed_bytes", ("mnist", model, recipe)).mean
        assert f"{100 * share:.0f} %" in text, recipe
    fast = "openvino-int8+dpm-solver-5"
    (ratio,) = re.findall(
        rf"^\| {re.escape(fast)} .* ×(.+) \|$", (RESULTS / "own-model" / "diffusers.md").read_text(), re.M
    )
    share, fid, kid = (
        found("own-model").ratio(column, ("digit-images", "own", fast)).mean
        for column in ("size_packed_bytes", "fid_indomain", "kid")
    )
    changes = f"(FID {100 * fid - 100:+.0f} %, KID {100 * kid - 100:+.0f} %)"
    said = (
        f"samples {ratio} times as fast at equivalent images** {changes}, from {100 * share:.0f} % of the packed file"
    )
    assert said in text
    speeds = [
        difference.speed.finding
        for recipe, difference in found("paper-cpu").differences["reference"].items()
        if re.search(r"(random|l1)-\d", recipe[2]) and "groups" not in recipe[2]
    ]
    assert f"Of {len(speeds)} recipes that zero" in text
    assert f"{speeds.count(EQUIVALENT)} sample as fast within 10 %, two are unresolved" in text
    assert speeds.count(UNRESOLVED) == 2


def test_the_words_of_the_readme_are_those_of_the_engine() -> None:
    slim = found("slim").differences["reference"]
    for recipe in ("compile-bf16", "openvino-int8"):
        assert slim["mnist", "ncsn", recipe].images.finding == EQUIVALENT
    own = found("own-model").differences["reference"]["digit-images", "own", "openvino-int8+dpm-solver-5"]
    assert own.images.finding == EQUIVALENT
    assert {each.speed.finding for each in slim.values()} == {"reference", UNRESOLVED}, "no speed is decided"
    assert verdict("paper-cpu", "ncsn-groups2").verdict == "contradicted"
    combined = {part.left: part.verdict for part in verdict("paper-cpu", "ddpm-combined").parts}
    assert combined["mnist/ddpm/groups-2+random-10"] == "contradicted"
    paper = found("paper-cpu").differences["reference"]
    assert paper["mnist", "ddpm", "linear-8bit-frozen"].speed.finding == "worse"
    losing = [("ncsn", "groups-2"), ("ddpm", "groups-2+random-10"), ("ddpm", "random-10")]
    assert {paper["mnist", model, recipe].images.finding for model, recipe in losing} == {"worse"}
    assert (
        found("own-model").differences["reference"]["digit-images", "own", "uniform-50-distilled"].images.finding
        == "worse"
    )


def test_the_default_run_in_the_readme_is_its_matrix() -> None:
    frame = matrix("default").frame.set_index(["model", "optimization"])
    lines = re.findall(r"^\| `(\w+)/([\w+.-]+)` \|.*\| ([\d.]+) % \| ([\d.]+) MB \|$", README, re.MULTILINE)
    assert len(lines) >= 5
    for model, recipe, percent, size in lines:
        row = frame.loc[(model, recipe)]
        assert f"{row['fid_indomain_pct']:.1f}" == percent, recipe
        assert f"{row['size_gzip_bytes'] / 1e6:.2f}" == size, recipe
    floors = (f"{frame.loc[(model, 'baseline')]['fid_indomain_floor_pct']:.2f} %" for model in ("ncsn", "ddpm"))
    assert all(floor in README for floor in floors)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(name in OLDER_COLUMNS, strict=True, reason="older columns"))
        for name in STUDIES
    ],
)
def test_a_published_matrix_has_the_columns_of_today(name: str) -> None:
    assert schema_problem(RESULTS / name / "matrix.parquet") is None, f"run config/{name}.yaml and publish it again"


@pytest.mark.parametrize("name", STUDIES)
def test_every_interval_in_a_page_is_in_its_matrix(name: str) -> None:
    """A page may cite any ratio, share, verdict, correlation or contrast, and the ratio of any two recipes."""
    text = " ".join(read_page(name).split())
    cited = {match[0] + "]": match.groups() for match in INTERVAL.finditer(text)}
    cited = {whole: numbers for whole, numbers in cited.items() if whole not in of_bottom(name)}
    for candidates in (own_intervals, intervals_between_recipes) if cited else ():
        known = np.array(list(candidates(name)))
        for whole, numbers in list(cited.items()):
            half_digits = np.array([0.5 * 10.0 ** -len(number.partition(".")[2]) for number in numbers])
            near = np.abs(known - np.array(numbers, float)) <= half_digits + 1e-9
            if near.all(axis=1).any():
                del cited[whole]
        if not cited:
            break
    assert not cited, "intervals that the matrix does not hold"


def of_bottom(name: str) -> str:
    """Return the table of benchmarks/scores/bottom.py, whose cells are in no matrix, if the page has it."""
    path = RESULTS / name / "bottom.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def own_intervals(name: str) -> Iterator[tuple[float, float, float]]:
    """Yield mean, low and high of every statistic of a matrix; ratios also upside down and as a change in percent."""
    results = found(name)
    for columns in results.ratios.values():
        for ratio in (ratio for block in columns.values() for ratio in block.values()):
            yield from of_ratio(ratio)
            yield tuple(100 * (value - 1) for value in (ratio.mean, ratio.low, ratio.high))  # type: ignore[misc]
    for points in (points for block in results.shares.values() for points in block.values()):
        yield 100 * points.mean, 100 * points.low, 100 * points.high
    for part in (part for each in verdicts_of(name).values() for part in each.parts):
        for effect in ((part.effect, part.low, part.high), (part.second_effect, part.second_low, part.second_high)):
            if None not in effect:
                yield effect  # type: ignore[misc]
    if name in CONTRASTS:
        yield from contrasts_of(name)[["ratio", "low", "high"]].itertuples(index=False, name=None)
    yield from results.proxies.get(["rho", "low", "high"], pd.DataFrame()).itertuples(index=False, name=None)


@cache
def contrasts_of(name: str) -> pd.DataFrame:
    question, *others = CONTRASTS[name]
    return contrasts.answer(question, *(matrix(each).frame for each in (*others, name)))


@pytest.mark.parametrize("name", [name for name in STUDIES if name in CONTRASTS])
def test_published_contrasts_are_those_of_the_matrix(name: str) -> None:
    published = pd.read_csv(RESULTS / name / "contrasts.csv")
    pd.testing.assert_frame_equal(contrasts_of(name), published, rtol=1e-5)


def intervals_between_recipes(name: str) -> Iterator[tuple[float, float, float]]:
    for column in ("fid_indomain", "kid"):
        values = statistics.by_seed(matrix(name).frame, column).values()
        for own, other in itertools.permutations(values, 2):
            yield from of_ratio(statistics.paired(own, other))


def of_ratio(ratio: Ratio) -> Iterator[tuple[float, float, float]]:
    for each in (ratio, ratio.inverse) if ratio.n else ():
        yield each.mean, each.low, each.high


@cache
def verdicts_of(name: str) -> dict[str, Verdict]:
    claims = file.read([RESOURCES / "claims.yaml", RESOURCES / "open-questions.yaml"])
    paper = read_paper(RESOURCES / "paper_reference.csv")
    return {each.id: each for each in verdicts.evaluate_claims(matrix(name), paper, claims, MARGINS)}


def verdict(name: str, claim: str) -> Verdict:
    return verdicts_of(name)[claim]


@pytest.mark.parametrize("name", ["slim", "paper-cpu", "open-questions"])
def test_published_verdicts_are_those_of_today(name: str) -> None:
    text = (RESULTS / name / "claims.md").read_text(encoding="utf-8")
    published = dict(re.findall(r"^\| `([\w+.-]+)` \| \w+ \| \*\*([\w ]+)\*\* \|", text, re.MULTILINE))
    assert published
    mnist = {claim: each.verdict for claim, each in verdicts_of(name).items()}
    assert {claim: mnist[claim] for claim in published} == published
    if (record := RESULTS / name / "claims.json").exists():
        stored = {claim["id"]: claim["verdict"] for claim in json.loads(record.read_text(encoding="utf-8"))["claims"]}
        assert stored == published


@pytest.mark.parametrize("name", ["slim", "paper-cpu", "open-questions", "sensitivity"])
def test_published_tables_are_those_of_today(name: str) -> None:
    paper = read_paper(RESOURCES / "paper_reference.csv")
    frame = differencetables.differences.table(matrix(name), found(name), paper, differencetables.TABLES)
    published = (RESULTS / name / "differences.md").read_text(encoding="utf-8")
    assert published == differencetables.differences_markdown(frame, found(name))
    assert (RESULTS / name / "cells.md").read_text(encoding="utf-8") == cells_markdown(matrix(name).frame)


@pytest.mark.parametrize("name", [name for name in STUDIES if study.BEGIN in read_page(name)])
def test_the_block_of_a_page_is_of_its_matrix(name: str) -> None:
    """But for times, which are in no matrix: all that it says of the run, by the rules of today."""
    preset = None if name == publish.DEFAULT else f"config/{name}.yaml"
    stated = read_yaml(preset or "config.yaml").get("claims")
    claims = file.read(ROOT / path for path in stated or ["workflow/resources/claims.yaml"])
    paper = read_paper(RESOURCES / "paper_reference.csv")
    own = verdicts.evaluate_claims(matrix(name), paper, claims, MARGINS)
    record = verdicts.to_json(matrix(name), own, MARGINS)
    for what, text in study.facts_of_matrix(preset, matrix(name), found(name), record):
        assert f"\n| {what} | {text} |\n" in read_page(name)
    listed = set(re.findall(r"\]\(([\w.+-]+)\)", read_page(name).partition(study.BEGIN)[2].partition(study.END)[0]))
    made = {path.name for path in (RESULTS / name).iterdir() if study.written(path.name)}
    assert listed == made - {study.PAGE}


def test_the_page_of_the_paper_is_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (RESULTS / "paper.md").read_text(encoding="utf-8")
    assert text == publish.paper_page(RESULTS), "`slimdiff publish` writes it anew"
    numbers, _, verdicts_part = text.partition("## Claims")
    assert numbers.count("\n| ") == 2 + len(read_paper(RESOURCES / "paper_reference.csv"))
    stated = {claim.id for claim in file.read([RESOURCES / "claims.yaml"])}
    assert set(re.findall(r"^\| `([\w+.-]+)` \|", verdicts_part, re.MULTILINE)) == stated


def test_no_interval_of_a_distance_is_negative() -> None:
    for path in RESULTS.glob("*/table-*.md"):
        if path.parent.name != "default":  # remade by its own run
            assert not re.search(r"\d+\.\d+ \[-\d", path.read_text(encoding="utf-8")), path


def test_the_power_of_the_findings_is_as_published() -> None:
    """The simulation at its first spread, with fewer trials: pinned by seed, and near the published shares."""
    power = importlib.import_module("power")
    spread = power.measured()[0]
    assert spread.name == "ncsn, median"
    shares = {
        (truth, seeds): power.shares(spread, (truth, truth), seeds, 1000, np.random.default_rng(1))
        for truth in (1.0, 1.25, 1.5, 2.0)
        for seeds in (3, 5, 8)
    }
    for seeds in (3, 5, 8):
        assert shares[1.0, seeds]["better"] + shares[1.0, seeds]["worse"] <= 0.05
        assert shares[1.25, seeds]["equivalent"] <= 0.05
        assert shares[1.5, seeds]["better"] + shares[1.5, seeds]["equivalent"] == 0
        disagreeing = power.shares(spread, (1.5, 1 / 1.5), seeds, 500, np.random.default_rng(2))
        assert disagreeing[UNRESOLVED] == pytest.approx(1.0, abs=0.01)
    assert shares[1.5, 3]["worse"] == pytest.approx(0.30, abs=0.04), "at the margin"
    assert shares[2.0, 3]["worse"] > 0.9
    assert shares[1.0, 3]["equivalent"] > 0.9
    text = (RESULTS / "verdicts" / "power.md").read_text(encoding="utf-8")
    for seeds in (3, 5):
        found = power.among(spread, 2.0, seeds, 30, 15, 100, np.random.default_rng(3))
        (line,) = re.findall(rf"^\| ncsn, median \| 2 \| 30 \| 15 \| {seeds} \| (.+) \|$", text, re.MULTILINE)
        assert float(line.split(" | ")[1]) == pytest.approx(100 * found["worse"], abs=8)
        assert found["false"] <= 0.05
    line = next(
        line
        for line in (RESULTS / "verdicts" / "power.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| ncsn, median \| 1.5 \| 3 \|", line)
    )
    worse = float(line.split("|")[5])
    assert worse == pytest.approx(100 * shares[1.5, 3]["worse"], abs=4)
