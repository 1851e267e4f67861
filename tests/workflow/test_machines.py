"""Machines as people have them: paths of any characters, homes, locales, file systems without locks, other folders."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from clones import ENVIRONMENT, REPOSITORY, SMOKE, clone, planned, snakemake, with_site, with_stand_ins
from faults import same_but_for_times

HELPERS = Path(__file__).parents[1] / "helpers"
ONE = "matrix:\n  - {dataset: digits, model: ncsn, optimizations: [baseline], seeds: [0]}\n"
PRESETS = (*SMOKE, "one.yaml")
# Braces are wildcards to Snakemake, a colon parts the folders of PYTHONPATH, and the rest means something to a shell.
ODD = b'-d {seed} {config[x]} $(touch pwned) `touch pwned` \\ "it\'s" %s *?[a] #;&|<>~!=:,@ \xd0\x9f\xd1\x80\n\t'
NOT_TEXT = b" \xe9"  # in UTF-8; macOS refuses it
# What libraries of a run import, and pandas of a job.
HIDDEN = ("numbers", "statistics", "yaml", "pyarrow", "torch", "secrets")


def with_one_cell(folder: Path) -> Path:
    """Return the clone with an overlay of one cell."""
    (folder / "one.yaml").write_text(ONE, encoding="utf-8")
    return folder


def make_locale(folder: Path) -> dict[str, str]:
    """Return the environment of a Latin-1 locale; of an ASCII one where none can be made."""
    name = "en_US.ISO-8859-1"
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / name)]
    if shutil.which("localedef") and subprocess.run(command, capture_output=True).returncode == 0:
        return {"LOCPATH": str(folder), "LC_ALL": name}
    return {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run_as_typed(
    folder: Path, arguments: Sequence[str], environment: Mapping[str, str], prefix: Sequence[str] = ()
) -> tuple[int, str]:
    """Run Snakemake by its script, in a new process; return its exit code and what it prints, which may be Latin-1."""
    script = Path(sys.executable).with_name("snakemake")
    command = [*prefix, sys.executable, *([script] if script.exists() else ["-P", "-m", "snakemake"])]
    variables = {**ENVIRONMENT, **environment}
    done = subprocess.run([*command, *arguments], cwd=folder, env=variables, capture_output=True)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def test_an_odd_machine_makes_the_same_matrix(tmp_path: Path) -> None:
    """No locks, a Latin-1 locale, no home, an odd path and files that would hide libraries, all at once."""
    plain, odd = (with_one_cell(clone(tmp_path / name)) for name in ("plain", os.fsdecode(ODD)))
    for folder in (plain, odd):
        with_site(folder, HELPERS / "stand_in_records.py")
    for name in HIDDEN:
        (odd / f"{name}.py").write_text("raise SystemExit('a file of the user hides a library')\n", encoding="utf-8")
    prefix = [sys.executable, str(HELPERS / "without_locks.py"), "ENOSYS"]
    locks = subprocess.run([*prefix, "true"], capture_output=True).returncode != 0
    until = ("--cores", "2", *PRESETS, "--until", "aggregate")
    locale = {"HOME": "/dev/null", **make_locale(tmp_path)}
    code, printed = run_as_typed(odd, until, locale, () if locks else prefix)
    assert code == 0, printed
    done = snakemake(plain, *until)
    assert done.returncode == 0, done.stdout + done.stderr
    same_but_for_times(plain, odd)
    assert printed.count("note: this file system has no locks") == (0 if locks else 1)
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("pwned"))


def test_a_whole_run_in_a_path_of_any_characters(tmp_path: Path) -> None:
    """With Snakemake's own report, which a second Snakemake writes."""
    name = ODD if sys.platform == "darwin" else ODD + NOT_TEXT
    folder = with_one_cell(with_stand_ins(clone(tmp_path / os.fsdecode(name))))
    done = snakemake(folder, "--cores", "2", *PRESETS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert (folder / "results/workflow.html").is_file()
    assert (folder / "results/report.html").read_text(encoding="utf-8") == "results/report.html"
    assert not list(tmp_path.rglob("pwned"))


def test_no_process_looks_for_modules_in_the_working_folder() -> None:
    files = [*(REPOSITORY / "workflow").rglob("*.smk"), *(REPOSITORY / "workflow" / "src").rglob("*.py")]
    starts = re.compile(r'(?:sys\.executable, "|"python -u )(-P)?')
    found = [option for path in files for option in starts.findall(path.read_text(encoding="utf-8"))]
    assert len(found) > 20
    assert set(found) == {"-P"}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which nothing has run."""
    return clone(tmp_path_factory.mktemp("machines") / "slim diff")


@pytest.mark.parametrize("home", ["/dev/null", ""])
def test_snakemake_needs_no_home(fresh: Path, home: str) -> None:
    assert "train" in planned(fresh, *SMOKE, HOME=home)


@pytest.mark.parametrize("holds", ["nothing", "a config.yaml", "another workflow"])
def test_from_another_folder(fresh: Path, tmp_path: Path, holds: str) -> None:
    """One line names the file that is missing and the clone, and what it proposes works."""
    if holds != "nothing":
        (tmp_path / "config.yaml").write_text("samples: [a, b]\n", encoding="utf-8")
    if holds == "another workflow":
        (tmp_path / "workflow").mkdir()
    start = ("-s", str(fresh / "Snakefile"), "-n", "--configfile", str(fresh / "config/smoke.yaml"))
    refused = snakemake(tmp_path, *start)
    assert refused.returncode == 1
    (line,) = [line for line in (refused.stdout + refused.stderr).splitlines() if "error" in line.lower()]
    missing = {"nothing": "config.yaml was not found", "a config.yaml": "workflow was not found"}
    assert line.startswith(f"error: {missing.get(holds, str(tmp_path))}")
    assert f"cd '{fresh}'" in line and f"--directory '{fresh}'" in line
    if holds == "nothing":
        assert snakemake(tmp_path, *start, "--directory", str(fresh)).returncode == 0


def test_a_path_that_the_locale_cannot_spell_is_one_line(fresh: Path, tmp_path: Path) -> None:
    """It says what helps, and that helps."""
    overlay = tmp_path / "theirs.yaml"
    overlay.write_text("data_dir: Данные\n", encoding="utf-8")
    arguments = ("-n", "--cores", "1", "--configfile", str(overlay), "config/smoke.yaml")
    locale = make_locale(tmp_path)
    if locale["LC_ALL"] == "C":
        pytest.skip("no Latin-1 locale can be made; ASCII ones keep the bytes of any path")
    code, printed = run_as_typed(fresh, arguments, locale)
    assert code == 1
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "theirs.yaml: data_dir is " in line and "PYTHONUTF8=1" in line
    assert run_as_typed(fresh, arguments, {**locale, "PYTHONUTF8": "1"})[0] == 0


@pytest.mark.parametrize("character", ["$", "\\"])
def test_paths_that_batch_systems_misread_are_refused_before_a_job(tmp_path: Path, character: str) -> None:
    pytest.importorskip("snakemake_executor_plugin_cluster_generic", reason="comes with the extra `cluster`")
    folder = clone(tmp_path / f"a {character} b")
    refused = snakemake(folder, "--workflow-profile", "profiles/generic", *SMOKE)
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert repr(character) in line
    assert "rule " not in refused.stdout + refused.stderr
    assert not list((folder / ".snakemake/locks").glob("*"))
