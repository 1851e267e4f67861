"""Models of the Hugging Face Hub: fetched by commit from a server that stands in for it, and refused without one."""

from pathlib import Path
from typing import Any

import pytest
from hubserver import COMMIT, NAME, serve
from huggingface_hub import HfApi
from ownmodels import write_folder
from presets import CONFIG, SCHEMA, merge

from slimdiff.config import lookup
from slimdiff.config.pretrained import fill_pretrained
from slimdiff.config.validate import validate
from slimdiff.errors import TransientError, UserError
from slimdiff.io import hub
from slimdiff.io.diffusers_folder import MAX_BYTES
from slimdiff.stages import hub as stage

DATA, FOLDER = Path(CONFIG["data_dir"]), hub.FOLDER
NOWHERE = "http://127.0.0.1:9"  # nothing listens on this port
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def configured(name: str = NAME) -> dict[str, Any]:
    overlay = {
        "models": {"mine": {"family": "unet2d", "pretrained": name}},
        "matrix": [{"dataset": "digits", "model": "mine", "optimizations": ["baseline"], "seeds": [0]}],
    }
    config = fill_pretrained(merge(CONFIG, overlay))
    validate(config, SCHEMA, {"config.yaml": CONFIG, "my.yaml": overlay}, with_data=False)
    return config


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(hub, "_api", lambda: HfApi(endpoint=endpoint))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without a Hub."""
    use(monkeypatch, NOWHERE)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    lookup.folder_files.cache_clear()


@pytest.mark.parametrize("pipeline", [True, False])
def test_the_config_fetches_what_it_reads_and_the_stage_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: bool
) -> None:
    theirs = write_folder(tmp_path / "model")
    if not pipeline:
        theirs.unet.save_pretrained(tmp_path / "flat")
        theirs.scheduler.save_pretrained(tmp_path / "flat")
    (tmp_path / "model" / "evil.py").write_text("raise SystemExit")
    file = WEIGHTS if pipeline else Path(WEIGHTS).name
    with serve(tmp_path / ("model" if pipeline else "flat")) as (endpoint, requests):
        use(monkeypatch, endpoint)
        config = configured()
        assert config["models"]["mine"]["network"]["block_out_channels"] == [8, 16]
        assert lookup.hub_weights(config) == {f"{NAME}/{file}": NAME}
        assert not any(file in request or "evil" in request for request in requests)
        n_requests = len(requests)
        assert configured() == config
        assert len(requests) == n_requests, "JSON files are fetched once"
        out = DATA / FOLDER / NAME / file
        stage.main(["--name", NAME, "--data-dir", str(DATA), "--out", str(out)])
    assert out.read_bytes() == (tmp_path / ("model" if pipeline else "flat") / file).read_bytes()
    assert not list(Path().rglob("evil.py"))
    use(monkeypatch, NOWHERE)
    assert configured() == config


def test_without_a_network() -> None:
    with pytest.raises(UserError) as caught:
        configured()
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"my.yaml: models.mine.pretrained is '{NAME}': ")
    assert f"`hf download someone/some-model --revision {COMMIT} --local-dir FOLDER`" in line


@pytest.mark.parametrize(
    "name", ["someone/some-model", "someone/some-model@main", f"x/../y@{COMMIT}", f"a/b@{COMMIT[:39]}"]
)
def test_names_without_a_full_commit_are_folders(name: str) -> None:
    assert hub.local_folder(name, DATA) == Path(name)
    with pytest.raises(UserError, match=r"models\.mine\.pretrained is .* neither a folder .* OWNER/NAME@COMMIT of 40"):
        configured(name)


@pytest.mark.parametrize(
    ("file", "listing", "text"),
    [
        (WEIGHTS, {"size": MAX_BYTES + 1}, f"{WEIGHTS} has 8.59 GB"),
        ("unet/config.json", {"size": 2 << 20}, "unet/config.json has 2.10 MB"),
        (WEIGHTS, {"rfilename": "unet/diffusion_pytorch_model.bin"}, f"has no {WEIGHTS} on the Hub"),
        ("scheduler/scheduler_config.json", {"blobId": "0" * 40}, "scheduler_config.json arrived with other bytes"),
    ],
)
def test_what_the_hub_lists_is_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, listing: dict[str, Any], text: str
) -> None:
    write_folder(tmp_path / "model")
    with serve(tmp_path / "model", {file: listing}) as (endpoint, _):
        use(monkeypatch, endpoint)
        with pytest.raises(UserError, match=r"models\.mine\.pretrained is") as caught:
            configured()
    assert text in str(caught.value)


def test_weights_of_another_digest_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model")
    lfs = {"sha256": "0" * 64, "size": 1, "pointerSize": 1}
    with serve(tmp_path / "model", {WEIGHTS: {"lfs": lfs}}) as (endpoint, _):
        use(monkeypatch, endpoint)
        configured()
        with pytest.raises(TransientError, match="other bytes"):
            hub.fetch_weights(NAME, DATA)
    assert not (DATA / FOLDER / NAME / WEIGHTS).exists()


@pytest.mark.parametrize("missing", ["size", "blobId"])
def test_files_are_listed_with_size_and_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    write_folder(tmp_path / "model")
    with serve(tmp_path / "model", {"unet/config.json": {missing: None}}) as (endpoint, _):
        use(monkeypatch, endpoint)
        with pytest.raises(UserError, match="listed without size or digest"):
            configured()


@pytest.mark.parametrize(
    ("status", "content", "text"),
    [
        (200, b"<html>Sign in to the network</html>", "the Hub cannot be read"),
        (200, b"[]", "the Hub cannot be read"),
        (200, b'{"id": "a/b", "siblings": []}', "the Hub cannot be read (it lists the files of commit None)"),
        (200, b'{"id": "a/b", "sha": "main", "siblings": []}', "commit 'main'"),
        (200, b'{"id": "a/b", "sha": "main", "siblings": [{"path": "x"}]}', "the Hub cannot be read"),
        (503, b"", "503"),
        (429, b"", "429"),
    ],
)
def test_answers_that_are_not_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, content: bytes, text: str
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    write_folder(tmp_path / "model")
    with serve(tmp_path / "model", listing=(status, content)) as (endpoint, _):
        use(monkeypatch, endpoint)
        with pytest.raises(UserError) as caught:
            configured()
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"my.yaml: models.mine.pretrained is '{NAME}': ")
    assert text in line and "hf download" in line


def test_files_have_their_names_when_their_bytes_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: Any) -> bool:
        raise KeyboardInterrupt

    write_folder(tmp_path / "model")
    with serve(tmp_path / "model") as (endpoint, _):
        use(monkeypatch, endpoint)
        with monkeypatch.context() as patch:
            patch.setattr(hub, "_has_digest", killed)
            with pytest.raises(KeyboardInterrupt):
                hub.fetch_weights(NAME, DATA)
        assert not (DATA / FOLDER / NAME).exists()
        assert hub.fetch_weights(NAME, DATA).read_bytes() == (tmp_path / "model" / WEIGHTS).read_bytes()


def test_a_description_that_lost_a_file_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model")
    with serve(tmp_path / "model") as (endpoint, _):
        use(monkeypatch, endpoint)
        config = configured()
        (DATA / FOLDER / NAME / "unet/config.json").unlink()
        assert configured() == config


def test_a_full_disk_is_not_taken_for_a_missing_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    write_folder(tmp_path / "model")
    with serve(tmp_path / "model") as (endpoint, _):
        use(monkeypatch, endpoint)
        monkeypatch.setattr(HfApi, "hf_hub_download", full)
        with pytest.raises(TransientError, match=r"cannot be stored in data_dir: .*No space left on device") as caught:
            hub.fetch_description(NAME, DATA)
    assert "hf download" not in str(caught.value)


def test_a_name_that_the_hub_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model")
    with serve(tmp_path / "model") as (endpoint, _):
        use(monkeypatch, endpoint)
        for name, what in ((f"someone/else@{COMMIT}", "model"), (NAME[:-1] + "8", "commit")):
            with pytest.raises(UserError, match=f"has no such {what}"):
                hub.fetch_description(name, DATA)


@pytest.mark.parametrize("name", [f"a/{'b' * 300}@{COMMIT}", "a" * 300])
def test_names_that_no_disk_takes(name: str) -> None:
    with pytest.raises(UserError, match=r"models\.mine\.pretrained is .* neither a folder"):
        configured(name)


def test_the_stage_names_key_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError) as caught:
        stage.main(["--name", NAME, "--data-dir", str(DATA), "--out", "x"])
    assert str(caught.value).startswith(f"models.*.pretrained is '{NAME}': the Hub cannot be read (")
