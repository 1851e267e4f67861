"""Untrusted configurations on the real command lines: an error in one line and no job, or a harmless plan."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clones import clone, snakemake, with_stand_ins
from photos import write_photos

# Text that a shell, Snakemake's formatting or Python would interpret.
SHELL = 'it\'s $(touch pwned) `touch pwned`; touch pwned & "x" %s'
ENTRY = "matrix: [{{dataset: mnist, model: ncsn, optimizations: [{}], seeds: [{}]}}]"

# Configurations that plain Snakemake reads without an error, and our message.
REFUSED = {
    "a shell's text as a name": (
        'optimizations: {"a;touch pwned": {training: plain}}',
        "optimizations.'a;touch pwned' is not a usable name",
    ),
    "a command as a name": ('models: {"$(touch pwned)": {}}', "models.'$(touch pwned)' is not a usable name"),
    "a path as a name": ("datasets: {../../x: {source: digits}}", "datasets.../../x is not a usable name"),
    "a line break in a name": ('optimizations: {"x\\n": {training: plain}}', "has the character '\\n'"),
    "an escape of a terminal": ('data_dir: "\\e[2J"', "data_dir has the character '\\x1b'"),
    "an option as a path": ("data_dir: --delete", "data_dir is '--delete', which starts like an option"),
    "a pattern as a path": ('data_dir: "{config[seed]}"', "data_dir is '{config[seed]}'"),
    "a fractional seed": (ENTRY.format("baseline", "2.0"), "matrix[0].seeds[0] is 2.0"),
    "a seed of a thousand digits": (ENTRY.format("baseline", "1" + "0" * 999), "matrix[0].seeds[0] is a number of"),
    "nan": ("sampling: {batch_size: .nan}", "sampling.batch_size is nan"),
    "a duplicate key": ("data_dir: a\ndata_dir: b", "the key data_dir appears twice"),
    "a key of Snakemake's": ("pathvars: {results: /tmp}", "pathvars is an unknown key"),
    "a wrong type with two right ones": ("profile: {baseline: 3}", "profile.baseline is 3"),
    "a plugin from elsewhere": ("plugins: [/tmp/evil.py]", "plugins[0] is '/tmp/evil.py'"),
    "claims that are a device": ("claims: [/dev/zero]", "claims[0] is '/dev/zero', which does not exist"),
}
# Files that Snakemake's reader executes, hangs on or fails on with a traceback: `slimdiff run` checks them first.
REFUSED_FIRST = {
    "a template": ('__use_yte__: true\ndata_dir: ?open("pwned", "w") and "a"', "run expressions in this file as code"),
    "a Python object": ('data_dir: !!python/object/apply:os.system ["touch pwned"]', "could not determine"),
    "an invalid date": ("data_dir: 2026-99-99", "data_dir is 2026-99-99, which YAML 1.1 reads as a date"),
    "a number of thousands of digits": ("data_dir: " + "9" * 5000, "4300 digits"),
    "deep": ("data_dir: " + "[" * 3000, "nested too deeply"),
    "endless": ("sampling: &a\n  x: *a", "contains itself"),
    "a billion values": (
        "\n".join(["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 32)]),
        "expands to more than",
    ),
    "nothing": ("", "must hold a mapping"),
    "a list": ("- 1", "must hold a mapping"),
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which nothing has run."""
    return clone(tmp_path_factory.mktemp("hostile") / "slimdiff")


def slimdiff_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `slimdiff run --dry-run` in the clone."""
    command = [sys.executable, "-m", "slimdiff.cli", "run", "--dry-run", "--cores", "1", "--gpus", "0", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": "workflow/src"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def said(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """Return the one line of a refusal."""
    printed = done.stdout + done.stderr
    assert done.returncode not in (0, -9)
    assert "Traceback" not in printed
    assert not list(folder.rglob("pwned"))
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert line.isprintable()
    return line


@pytest.mark.parametrize("case", REFUSED)
def test_snakemake_refuses_in_one_line(fresh: Path, tmp_path: Path, case: str) -> None:
    overlay = tmp_path / "theirs.yaml"
    overlay.write_text(REFUSED[case][0] + "\n", encoding="utf-8")
    (tmp_path / "torch.py").write_text("raise ImportError('a rule imports torch')\n", encoding="utf-8")
    done = snakemake(fresh, "-n", "--cores", "1", "--configfile", str(overlay), PYTHONPATH=str(tmp_path))
    line = said(done, fresh)
    assert REFUSED[case][1] in line
    assert "theirs.yaml" in line


@pytest.mark.parametrize("case", REFUSED_FIRST)
def test_slimdiff_run_refuses_before_snakemake_reads(fresh: Path, tmp_path: Path, case: str) -> None:
    overlay = tmp_path / "theirs.yaml"
    overlay.write_text(REFUSED_FIRST[case][0] + "\n", encoding="utf-8")
    done = slimdiff_run(fresh, "--configfile", str(overlay))
    assert REFUSED_FIRST[case][1] in said(done, fresh)
    assert done.stderr.count("\n") == 1, "nothing was started"
    assert done.stdout == ""


def test_slimdiff_run_passes_on_snakemakes_refusals(fresh: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "theirs.yaml"
    overlay.write_text("profile: {baseline: 3}\n", encoding="utf-8")
    assert "profile.baseline is 3" in said(slimdiff_run(fresh, "--configfile", str(overlay)), fresh)


def test_invalid_yaml_on_the_command_line_is_one_line(fresh: Path) -> None:
    done = snakemake(fresh, "-n", "--cores", "1", "--config", "sampling={batch_size: '&a [*a'}")
    assert "--config" in said(done, fresh)


def test_shell_syntax_in_a_path_is_not_executed(tmp_path: Path) -> None:
    """A real run with stub stages, which get the path unchanged."""
    folder = with_stand_ins(clone(tmp_path / "slimdiff"))
    for name in ("<script>", "$(touch pwned)"):
        write_photos(folder / SHELL, [name])
        (folder / SHELL / name / "1.png").rename(folder / SHELL / name / "-rf.png")
        (folder / SHELL / name / "2.png").rename(folder / SHELL / name / "$(touch pwned).png")
    dataset = {"source": "folder", "path": SHELL, "image_size": 32, "channels": 1, "test_fraction": 0.5}
    overlay = {
        "data_dir": SHELL,
        "datasets": {"odd": dataset},
        "matrix": [{"dataset": "odd", "model": "ncsn", "optimizations": ["baseline"], "seeds": [0]}],
    }
    (folder / "odd.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    target = "results/train/odd/ncsn/plain/seed0/weights.safetensors"
    done = snakemake(folder, "--cores", "1", "--configfile", "odd.yaml", "--", target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / target).exists()
    received = (folder / "results/logs/data/odd.log").read_text(encoding="utf-8")  # the stub prints its arguments
    assert f"--data-dir {SHELL} --out" in received
    assert not [path for path in tmp_path.rglob("pwned") if path.is_file()]
