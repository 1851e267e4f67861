"""Names in a folder of images: what a run can know of it before any job."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import SOURCE
from PIL import Image
from presets import CONFIG, SCHEMA, merge

from slimdiff.catalog import limits
from slimdiff.config.validate import validate
from slimdiff.data import class_folders, folder, image_set
from slimdiff.errors import UserError
from slimdiff.io.folders import listing
from slimdiff.stages import data

LATIN_1 = b"\xe9t\xe9"  # not UTF-8


@pytest.fixture(autouse=True)
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a dry run accept a data set of a few images."""
    monkeypatch.setattr(limits, "FEATURES", 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images."""
    for name in ("tea", "coffee"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index + 3 * (name == "tea")).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"im {index}.png")
    return tmp_path / "mine"


def options(root: Path) -> dict[str, Any]:
    return {"source": "folder", "path": str(root), "image_size": 8, "channels": 1, "test_fraction": 0.34}


def check_config(root: Path, classes: int = 0, **keys: Any) -> None:
    """Validate a config with the folder, as every dry run does."""
    overlay = {
        "datasets": {"mine": options(root) | keys},
        "models": {"ddpm": {"network": {"classes": classes}, "sampler": {"guidance": 1.0}}},
        "matrix": [{"dataset": "mine", "model": "ddpm", "optimizations": ["baseline"], "seeds": [0]}],
    }
    validate(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})


def refusals(root: Path) -> list[str]:
    """What the dry run says of the folder, and what the stage says."""
    messages = []
    for refused in (
        lambda: check_config(root),
        lambda: data.main(
            ["--settings", json.dumps({"name": "mine"} | options(root)), "--data-dir", ".", "--out", "x"]
        ),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        messages.append(str(caught.value))
        assert messages[-1].isprintable()
        assert "datasets.mine.path" in messages[-1]
    assert folder.find("mine", root).problem == messages[-1], "as slimdiff doctor says"
    return messages


def run_stage(root: Path) -> image_set.ImageSet:
    out = root.parent / "images.safetensors"
    settings = json.dumps({"name": "mine"} | options(root))
    data.main(["--settings", settings, "--data-dir", str(root), "--out", str(out)])
    return image_set.read(out)


@pytest.mark.parametrize("name", [LATIN_1 + b".png", b"\xff\xfe.PNG", b"two\nlines.png", "ü\u202e.png".encode()])
def test_any_bytes_name_a_file(root: Path, name: bytes) -> None:
    (root / "tea" / "im 0.png").rename(root / "tea" / os.fsdecode(name))
    check_config(root)
    assert len(run_stage(root).train_images) == 4


def test_a_damaged_file_of_any_name_is_named_on_one_line(root: Path) -> None:
    path = root / "tea" / os.fsdecode(LATIN_1 + b".png")
    (root / "tea" / "im 0.png").rename(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"\\udce9t\\udce9\.png of class 'tea'") as caught:
        run_stage(root)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [LATIN_1, b"a\tb", b"a\nb", "\u202e".encode()])
def test_a_class_is_text(root: Path, name: bytes) -> None:
    (root / "tea").rename(root / os.fsdecode(name))
    for message in refusals(root):
        assert repr(name) in message


@pytest.mark.parametrize("name", ["cafe\u0301", " café", "café ", "café  "])
def test_classes_that_look_alike_are_refused(root: Path, name: str) -> None:
    """An accent in one character or two, spaces at the ends."""
    (root / "tea").rename(root / "café")
    (root / "coffee").rename(root / name)
    for message in refusals(root):
        assert ascii(name) in message
        assert ascii("café") in message
    (root / name).rename(root / "Café")
    check_config(root)


def test_names_do_not_depend_on_the_locale(root: Path) -> None:
    (root / "tea").rename(root / "thé")
    (root / "coffee" / "im 0.png").rename(root / "coffee" / os.fsdecode(LATIN_1 + b".png"))
    script = (
        "import json, os, pathlib, sys\n"
        "from slimdiff.data.class_folders import find\n"
        "from slimdiff.io.folders import listing\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "found = [(one.name, [os.fsencode(file.name).hex() for file in one.files]) for one in find(root)]\n"
        "print(json.dumps([sys.getfilesystemencoding(), found, listing(root)]))"
    )
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", script, str(root)], env=ascii_only, capture_output=True, check=True)
    encoding, found, listed = json.loads(done.stdout)
    assert encoding != sys.getfilesystemencoding()
    here = [[one.name, [os.fsencode(file.name).hex() for file in one.files]] for one in class_folders.find(root)]
    assert found == here
    assert [name for name, _ in found] == ["coffee", "thé"]
    assert listed == [list(entry) for entry in listing(root)]


@pytest.mark.parametrize(
    "name", [*class_folders.FOREIGN, "__MACOSX", "@eaDir", "RECYCLER", "System Volume Information"]
)
def test_what_a_system_adds_is_no_class(root: Path, name: str) -> None:
    (root / name / "tea").mkdir(parents=True)
    (root / name / "tea" / "._im 0.png").write_bytes(b"\0\5\x16\7")
    for message in refusals(root):
        assert f"'{name}'" in message
        assert "'coffee'" in message
        assert "'tea'" in message
        assert class_folders.FOREIGN[name.lower()] in message


def test_a_wrong_number_of_classes_names_them(root: Path) -> None:
    shutil.copytree(root / "tea", root / "tea (copy)")
    with pytest.raises(UserError, match=r"classes is 2; allowed .* 3, .*'coffee', 'tea', 'tea \(copy\)'"):
        check_config(root, 2)
    check_config(root, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tea/Thumbs.db", "tea/Thumbs.db is not an image file"),
        ("coffee/notes.txt", "coffee/notes.txt is not an image file"),
        ("stray.png", "stray.png lies outside the class folders"),
    ],
)
def test_other_files_are_named_before_any_job(root: Path, name: str, expected: str) -> None:
    (root / name).write_bytes(b"x")
    for message in refusals(root):
        assert expected in message


@pytest.mark.parametrize("n", [0, 1])
def test_a_class_of_too_few_files_is_named_before_any_job(root: Path, n: int) -> None:
    for index in range(n, 3):
        (root / "tea" / f"im {index}.png").unlink()
    for message in refusals(root):
        assert f"tea holds {n} image files" in message


def test_hidden_files_are_ignored(root: Path) -> None:
    (root / ".DS_Store").write_bytes(b"x")
    (root / "tea" / "._im 0.png").write_bytes(b"\0\5\x16\7")
    check_config(root)
    assert len(run_stage(root).train_images) == 4


# --- keys ---------------------------------------------------------------------------------------------------------

KEYS = {"value_range": [0, 200], "background": 128, "frames": "all"}


def test_keys_of_reading(root: Path) -> None:
    check_config(root, **KEYS, duplicates="drop")
    check_config(root, value_range="auto", background="white", frames="first", duplicates="keep")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("value_range", [5, 5]),
        ("value_range", [1, 0]),
        ("value_range", [0]),
        ("value_range", "full"),
        ("background", 256),
        ("background", "red"),
        ("frames", 2),
        ("duplicates", "merge"),
    ],
)
def test_keys_out_of_range(root: Path, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^my\.yaml: datasets\.mine\.{key} is .*allowed: "):
        check_config(root, **{key: value})


@pytest.mark.parametrize("key", [*KEYS, "duplicates"])
def test_the_stage_refuses_other_words(root: Path, key: str) -> None:
    settings = json.dumps({"name": "mine", key: "other"} | options(root))
    with pytest.raises(UserError, match=rf"datasets\.mine\.{key} is 'other'; allowed: "):
        data.main(["--settings", settings, "--data-dir", ".", "--out", "x"])


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_reading_need_files(key: str) -> None:
    overlay = {"datasets": {"digits": {key: KEYS[key]}}}
    with pytest.raises(UserError, match=rf"datasets\.digits\.{key} requires source: folder"):
        validate(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})
    settings = {"name": "digits", "source": "digits", key: KEYS[key]}
    with pytest.raises(UserError, match=rf"datasets\.digits\.{key}: only source 'folder'"):
        data.main(["--settings", json.dumps(settings), "--data-dir", ".", "--out", "x"])
