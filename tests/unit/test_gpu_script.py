"""benchmarks/gpu.sh: its parts on a CPU, and what it does with parts that hang, fail or come too late."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("_gpu")


def read(out: Path, log: str) -> dict[str, dict[str, str]]:
    return {"log": {"text": log}}


def part(script: ModuleType, code: str, folder: str = ""):
    return script.Part("made-up", "", 1.0, ["-c", code], ["-c", "pass"], read, folder)


def test_a_part_that_hangs_is_ended_with_its_children_and_what_it_said_is_kept(script, tmp_path):
    code = "import subprocess as s, time; print(s.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    found = script.run(part(script, code), tmp_path, 1.0, dry=False)
    assert found["status"] == "cut off after 1 s"
    assert ended(found)


def test_what_a_part_leaves_behind_is_ended(script, tmp_path):
    """Even if it ignores SIGTERM: a process that keeps the device would disturb the next part."""
    code = "import subprocess as s; print(s.Popen(['sh', '-c', 'trap : TERM; sleep 60; sleep 60']).pid, flush=True)"
    found = script.run(part(script, code), tmp_path, 60.0, dry=False)
    assert found["status"] == "ok"
    assert ended(found)


def ended(found: dict[str, dict[str, dict[str, str]]]) -> bool:
    """Whether the process whose id the part printed ends within half a minute of its kill."""
    child, end = Path("/proc") / found["found"]["log"]["text"].strip() / "status", time.monotonic() + 30.0
    while lives(child) and time.monotonic() < end:
        time.sleep(0.01)
    return not lives(child)


def lives(status: Path) -> bool:
    try:
        return "(zombie)" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_part_that_fails_or_is_dry_says_so(script, tmp_path):
    failed = script.run(part(script, "print('why'); raise SystemExit(3)"), tmp_path, 60.0, dry=False)
    assert failed["status"] == "failed: exit status 3, why"
    assert script.run(part(script, "raise SystemExit(3)"), tmp_path, 60.0, dry=True)["status"] == "ok"


def test_the_default_run_has_a_fresh_clone(script, tmp_path):
    """With nothing of an earlier run, and with the data of this one."""
    (tmp_path / script.CLONE / "results").mkdir(parents=True)
    code = "import os; print(*sorted(os.listdir())); print(os.path.realpath('data'))"
    found = script.run(part(script, code, script.CLONE), tmp_path, 60.0, dry=False)["found"]["log"]["text"]
    assert found.splitlines() == [" ".join(sorted((*script.CLONED, "data"))), str((ROOT / "data").resolve())]
    assert {each.folder for each in script.PARTS if each.name == "default"} == {script.CLONE}


def test_without_git_the_commit_is_unknown(script, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert script.commit() == "unknown"


def test_parts_share_the_time_in_order_of_worth(script):
    assert sum(each.limit_s for each in script.PARTS) == 600
    names = ["machine", "tests", "default", "unet", "bitsandbytes", "training", "engines"]
    assert [each.name for each in script.PARTS] == names


def test_without_time_a_part_is_left_out_and_without_a_device_there_is_nothing_to_measure(
    script, tmp_path, monkeypatch, capsys
):
    """A failure of the first part, which looks for the device, ends the script."""
    done = {"status": "failed: exit status 1", "s": 1.0, "found": {}}
    monkeypatch.setattr(script, "run", lambda *arguments: done)
    for minutes, code, parts in (("10", 2, 1), ("0", 0, 7)):
        monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), "--minutes", minutes])
        assert script.main() == code
        assert len(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == parts
    assert "machine.log" in capsys.readouterr().err


def test_logs_are_read(script, tmp_path):
    row = tmp_path / script.CLONE / "results/cells/mnist/ncsn/baseline/seed0/row.json"
    row.parent.mkdir(parents=True)
    row.write_text(json.dumps(dict.fromkeys(script.SHOWN, 1.5)), encoding="utf-8")
    found = script.cells(tmp_path, "1 of 69 steps (1%) done\n40 of 69 steps (58%) done\n")
    assert found == {"jobs": {"done": 40, "of": 69}, "mnist/ncsn/baseline/seed0": dict.fromkeys(script.SHOWN, 1.5)}
    assert script.cells(tmp_path, "job    count\ntotal        69\n") == {"jobs": {"planned": 69}}
    log = "a.py::b[1 x] PASSED   [ 50%]\na.py::c PASSED [ 75%]\na.py::d FAILED [100%]\nFAILED a.py::d - x\na.py::e "
    assert script.outcomes(tmp_path, log) == {"tests": {"passed": 2, "failed": 1}}  # and cut off in the fourth
    assert script.outcomes(tmp_path, "No module named pytest") == {}


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    """And ends with one file of numbers and one page."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"]
    assert {name: each["status"] for name, each in parts.items()} == dict.fromkeys(parts, "ok")
    assert all(each["found"] for each in parts.values())
    assert parts["default"]["found"]["jobs"]["planned"] > 11
    assert len(parts["unet"]["found"]) == 8
    assert all("note" not in line for line in parts["unet"]["found"].values())
    assert set(parts["bitsandbytes"]["found"]) == {"8bit", "4bit", "8bit-mixed"}
    assert (tmp_path / "README.md").read_text(encoding="utf-8").count("\n## ") == len(parts)
