"""`slimdiff clean`: it lists orphans, deletes them only with --yes, and touches nothing else."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from clifolders import BASELINE, EXTRA, FAILED, PRUNED, write

Command = Callable[..., tuple[int, str, str]]
STOPPED, RUNNING = "mnist/ncsn/groups-4/seed0", "mnist/ncsn/groups-2/seed0"


@pytest.fixture
def used(results: Path) -> Path:
    """Results with logs; one training was stopped long ago, another is still reporting."""
    for stage in ("compress", "score"):
        for name in (BASELINE, EXTRA):
            write(results / "logs" / stage / f"{name}.log", "x" * 100)
    write(results / "benchmarks/sample" / f"{EXTRA}.jsonl", {})
    write(results / "logs/train/mnist/ncsn/groups-4/seed0.log", {})
    write(results / "data/old/images.safetensors", {})
    (results / "matrix.parquet").write_text("rows", encoding="utf-8")
    status = results / "state/train" / STOPPED / "status.json"
    os.utime(status, (0, 0))
    (status.parent / "state.safetensors").write_bytes(b"x" * 5000)
    return results


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_orphans_are_listed_and_nothing_is_deleted(used: Path, command: Command) -> None:
    before = snapshot(used.parent)
    code, out, _ = command("clean", "--orphans")
    assert code == 0
    lines = out.splitlines()
    assert STOPPED in lines[1] and "training" in lines[1] and "kB" in lines[1]  # the largest first
    (cell,) = [line for line in lines if EXTRA in line]
    assert "cell" in cell
    (running,) = [line for line in lines if RUNNING in line]
    assert "kept: training is running" in running
    assert not [line for line in lines if BASELINE in line or FAILED in line or PRUNED in line]
    assert "2 orphans of config.yaml" in out and "--yes deletes them" in out
    assert snapshot(used.parent) == before


def test_yes_deletes_orphans_and_nothing_else(used: Path, command: Command) -> None:
    before = snapshot(used.parent)
    code, out, _ = command("clean", "--orphans", "--yes")
    assert code == 0
    assert "deleted 2" in out
    after = snapshot(used.parent)
    gone = {name for name in before if EXTRA in name.removesuffix(".log") or STOPPED in name.removesuffix(".log")}
    assert len(gone) == 7
    assert after == {name: content for name, content in before.items() if name not in gone}
    assert not (used / "cells/mnist/ncsn/ema").exists()  # folders that are empty then go as well
    assert (used / "cells/mnist/ncsn/baseline").is_dir()
    again = command("clean", "--orphans", "--yes")[1]
    assert "deleted 0" in again


def test_trainings_of_requested_cells_stay(results: Path, command: Command) -> None:
    """`plain` is requested as the training of recipes; no cell has that name."""
    found = json.loads(command("clean", "--orphans", "--json")[1])
    assert "mnist/ncsn/plain/seed0" not in [orphan["name"] for orphan in found["orphans"]]
    config = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
    config["optimizations"] = {name: {"training": "groups-4"} for name in config["optimizations"]}
    Path("config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    names = [orphan["name"] for orphan in json.loads(command("clean", "--orphans", "--json")[1])["orphans"]]
    assert "mnist/ncsn/plain/seed0" in names
    assert "mnist/ncsn/groups-4/seed0" not in names


def test_a_preset_keeps_the_cells_it_requests(used: Path, command: Command) -> None:
    """Its matrix replaces that of config.yaml, whose own cells are kept as well."""
    matrix = [{"dataset": "mnist", "model": "ncsn", "optimizations": ["ema"], "seeds": [0]}]
    Path("mine.yaml").write_text(yaml.safe_dump({"matrix": matrix}), encoding="utf-8")
    found = json.loads(command("clean", "mine.yaml", "--orphans", "--json")[1])
    assert [orphan["name"] for orphan in found["orphans"]] == [STOPPED, RUNNING]
    assert found["config"] == ["config.yaml", "mine.yaml"]
    assert found["deleted"] is False


def test_a_training_whose_lock_is_held_stays(used: Path, command: Command) -> None:
    """Its last report may be old although it is still training."""
    lock = used / "state/train" / STOPPED / "lock"
    lock.touch()
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert STOPPED in command("clean", "--orphans", "--yes")[1]
        assert lock.parent.is_dir()
    command("clean", "--orphans", "--yes")
    assert not lock.parent.exists()


@pytest.mark.parametrize("part", ["seed0", "ema"])
def test_links_are_not_followed(used: Path, command: Command, tmp_path: Path, part: str) -> None:
    """A linked folder may belong to somebody else."""
    outside = tmp_path / "outside"
    place = used / "cells/mnist/ncsn/ema"
    if part == "seed0":
        (place / "seed0").rename(outside)
        (place / "seed0").symlink_to(outside)
    else:
        place.rename(outside)
        place.symlink_to(outside)
    before = snapshot(outside)
    code, out, _ = command("clean", "--orphans", "--yes")
    assert code == 0
    assert "is a link or behind one" in out
    assert snapshot(outside) == before


def test_links_within_an_orphan_are_not_followed(used: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    (used / "cells" / EXTRA / "link").symlink_to(tmp_path / "precious")
    command("clean", "--orphans", "--yes")
    assert not (used / "cells" / EXTRA).exists()
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


def test_the_results_folder_may_be_a_link(used: Path, command: Command, tmp_path: Path) -> None:
    used.rename(tmp_path / "scratch")
    used.symlink_to(tmp_path / "scratch")
    command("clean", "--orphans", "--yes")
    assert not (used / "cells" / EXTRA).exists()
    assert (used / "cells" / BASELINE).is_dir()


def test_nothing_to_do(results: Path, command: Command) -> None:
    matrix = [{"dataset": "mnist", "model": "ncsn", "optimizations": list("ab"), "seeds": [0]}]
    optimizations = {"a": {"training": "w"}, "b": {"training": "x"}}
    config = {"matrix": matrix, "optimizations": optimizations, "trainings": {"w": {}, "x": {}}}
    Path("c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    Path("new").mkdir()
    assert command("clean", "--orphans", "--config", "c.yaml", "--results", "new") == (
        0,
        "no orphans: c.yaml requests everything\n",
        "",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ((), 2, ("--orphans",)),
        (("--yes",), 2, ("--orphans",)),
        (("--orphans", "--yes", "--results", "elsewhere"), 1, ("elsewhere", "not a folder")),
        (("--orphans", "--yes", "--config", "absent.yaml"), 1, ("absent.yaml", "does not exist")),
        (("--orphans", "--yes", "--config", "empty.yaml"), 1, ("empty.yaml", "no cell")),
        (("--orphans", "--yes", "--config", "odd.yaml"), 1, ("optimizations.a must name its training",)),
        (("absent", "--orphans", "--yes"), 1, ("no preset", "'absent'")),
    ],
)
def test_refusals_delete_nothing(
    used: Path, command: Command, arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    odd = {"matrix": [{"dataset": "d", "model": "m", "optimizations": ["a"], "seeds": [0]}], "optimizations": {}}
    Path("odd.yaml").write_text(yaml.safe_dump(odd), encoding="utf-8")
    Path("empty.yaml").write_text("matrix: []\n", encoding="utf-8")
    before = snapshot(used)
    found, out, err = command("clean", *arguments)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert snapshot(used) == before


def test_clean_without_a_configuration_is_refused(used: Path, command: Command) -> None:
    Path("config.yaml").unlink()
    code, _, err = command("clean", "--orphans", "--yes")
    assert code == 1
    assert "every result would be an orphan" in err
    assert (used / "cells" / EXTRA).is_dir()
