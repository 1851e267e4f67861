"""The tour, the how-to pages and examples/README.md: every command in them runs, costly ones as dry runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import clifolders
import pytest
from builders import SMALL_UNET2D, UNET_SAMPLER, model_header, unet2d_training
from clones import REPOSITORY, clone, snakemake, stage_forks, with_stage_forks
from ownmodels import write_folder
from photos import write_photos
from PIL import Image

from slimdiff.checkpoints.model import write_model
from slimdiff.compression.channels import ChannelSettings, prune_channels
from slimdiff.data import mnist
from slimdiff.models.registry import build_network

PAGES = ("docs/tour.md", *sorted(f"docs/how-to/{path.name}" for path in (REPOSITORY / "docs/how-to").glob("*.md")))
PAGES = (*PAGES, "examples/README.md")
TEXTS = {page: (REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES}
SETTING_UP = {"git clone <this repository> slimdiff && cd slimdiff", "make venv", ". .venv/bin/activate"}
OWN_NETWORK = {**SMALL_UNET2D, "classes": 0}
CELLS = ("digits/ddpm/baseline", "digits/ddpm/groups-2+l1-10", "shapes/residual/low-rank-25")  # besides clifolders.REAL


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a language, without the indentation of lists."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", TEXTS[page], re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def named(text: str) -> str | None:
    """Return the file name in a block's first line."""
    match = re.match(r"# (\w+\.(?:yaml|py))\n", text)
    return match[1] if match else None


def commands() -> list[tuple[str, str]]:
    """Return page and command of every line of the shell blocks, as run here; lines that differ only in cores once."""
    found = [(page, cheap(line)) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    lines = {(page, re.sub(r" -n| --cores \d+", "", line)): line for page, line in found if line not in SETTING_UP}
    return [(page, line) for (page, _), line in lines.items()]


def cheap(line: str) -> str:
    """Return a command that starts jobs as a dry run, others unchanged."""
    if line.startswith("snakemake ") and " -n" not in line:
        return f"{line} -n" if any(word in line for word in ("--cores", "--jobs", "--workflow-profile")) else line
    if line.startswith("slimdiff run") and "--dry-run" not in line:
        return f"{line} --dry-run"
    return line


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with some cells, and with the files that the pages tell readers to write."""
    folder = with_stage_forks(clone(tmp_path_factory.mktemp("docs") / "slimdiff"))
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    written = clifolders.write_clone(tmp_path_factory.mktemp("cells") / "clone")
    shutil.copytree(written / "results", folder / "results")
    for cell in CELLS:
        shutil.copytree(folder / "results/cells" / clifolders.REAL[0], folder / "results/cells" / cell / "seed0")
    for page in PAGES:
        for text in (*blocks(page, "yaml"), *blocks(page, "python")):
            name = named(text)
            if name:
                where = folder if name not in ("my.yaml",) else folder / Path(page).stem
                where.mkdir(exist_ok=True)
                (where / name).write_text(text, encoding="utf-8")
    write_photos(folder / "photos")
    write_own_model(folder)
    (folder / "data").mkdir()
    for name in mnist.FILES:  # so that no server is contacted
        (folder / "data" / f"{name}.gz").touch()
    return folder


def write_own_model(folder: Path) -> None:
    """Write the folder of diffusers of docs/how-to/slim-your-own-model.md, and the cell that it exports."""
    model = {"family": "unet2d", "image_size": 32, "channels": 3, "fit": "resize", "network": OWN_NETWORK}
    options = {**unet2d_training(preconditioning="epsilon"), "noise_schedule": "linear"}
    network = build_network(model)
    record = prune_channels(network, ChannelSettings("channels", "l1", 0.5, mode="uniform"), 0)
    sampler = {**UNET_SAMPLER, "method": "ddim", "steps": 50, "guidance": 1.0, "clip": True}
    header = model_header(model, options, sampler=sampler, structure=[record], steps=[])
    header["dataset"]["sha256"] = "0" * 64
    cell = folder / "results/cells/cats/cats-model/half/seed0"
    write_model(cell / "model.safetensors", network, header)
    for name, method in (("cats-model", "ddpm"), ("cats-half", "ddim")):
        colour = {"sample_size": 32, "in_channels": 3, "out_channels": 3}
        write_folder(folder / name, method, {"num_train_timesteps": 1000}, **colour)


def environment(folder: Path) -> dict[str, str]:
    """Return the variables with which this Python's packages and the clone's own slimdiff are found."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(folder),
        "PYTHONPATH": str(folder / "workflow/src"),
        "OMP_NUM_THREADS": "1",
        "STAGE_FORKS": stage_forks("preloaded"),
        "SLIMDIFF_FORK_SERVER": "",
    }


def start(folder: Path, program: list[str]) -> str:
    """Run a program with this Python's packages and the clone's slimdiff."""
    done = subprocess.run(program, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_runs(here: Path, page: str, line: str) -> None:
    if "--executor slurm" in line and find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("Snakemake's plugin for Slurm is not installed; the page says how")
    program, *arguments = shlex.split(line)
    # Two pages have different files of this name.
    arguments = [f"{Path(page).stem}/{word}" if word == "my.yaml" else word for word in arguments]
    assert program in ("slimdiff", "snakemake")
    out = here / arguments[arguments.index("--out") + 1] if "--out" in arguments else None
    if out is not None and out.is_dir():  # written for the page's Python
        shutil.rmtree(out)
    if program == "snakemake":
        done = snakemake(here, *arguments, **environment(here))
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
    else:
        said = start(here, [sys.executable, "-m", "slimdiff.cli", *arguments])
    if program == "snakemake" or arguments[0] == "run":
        assert "This was a dry-run" in said
    if out is not None and "diffusers" in arguments:
        assert (out / "README.md").is_file()
    elif out is not None:
        Image.open(out).verify()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(named(text) is None for text in blocks(page, "python"))]
)
def test_python_runs_as_the_page_shows_it(here: Path, page: str) -> None:
    for text in blocks(page, "python"):
        if named(text) is None:
            start(here, [sys.executable, "-c", text])


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    folder = (REPOSITORY / page).parent
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXTS[page]):
        assert target.startswith("https://") or (folder / target).exists(), f"{page} links to {target}"


def test_set_up_commands_match_the_makefile() -> None:
    assert "\nvenv: " in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert sum(line in SETTING_UP for block in blocks("docs/tour.md", "sh") for line in block.splitlines()) == 3


def test_every_page_is_linked_from_another() -> None:
    texts = {**TEXTS, "README.md": (REPOSITORY / "README.md").read_text(encoding="utf-8")}
    linked = {
        (REPOSITORY / source).parent.joinpath(target).resolve()
        for source, text in texts.items()
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    }
    assert [page for page in PAGES if (REPOSITORY / page).resolve() not in linked] == []
