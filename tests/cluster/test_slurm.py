"""profiles/slurm on a real Slurm: the same matrix as a local run, and disturbed jobs lose nothing.

Disturbed and undisturbed runs run in parallel, since they spend most of their time waiting for Slurm.
"""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import slurm
from clones import clone, snakemake, stage_forks, with_stand_ins
from disturbances import DISTURBANCES
from faults import same_but_for_times
from runs import LOG, PRESETS, PROFILE, STATE, TRAINING, on_node, prepared, text_of

from slimdiff.analysis import matrix

IMAGES = Path("results/data/digits/images.safetensors")

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

Disturbed = dict[str, tuple[Path, "Future[None]"]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    """A cluster of three nodes; skips if none can be started."""
    if reason := slurm.missing():
        pytest.skip(reason)
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="comes with the extra `cluster`")
    with slurm.cluster(tmp_path_factory.mktemp("slurm"), n_nodes=3) as started:
        yield started
    assert not [name for name, daemon in started.daemons.items() if daemon.poll() is None], "all daemons have ended"
    assert slurm.missing() is None, "another cluster can start"


@pytest.fixture(scope="module")
def disturbed(cluster: slurm.Cluster, smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    """Start all disturbances; yield the clone and the future of each."""
    with ThreadPoolExecutor(len(DISTURBANCES)) as pool:
        under_way = {}
        for name, disturb in DISTURBANCES.items():
            folder = prepared(tmp_path_factory.mktemp("disturbed") / "slimdiff")
            (folder / IMAGES).parent.mkdir(parents=True)
            shutil.copy2(smoke_run / IMAGES, folder / IMAGES)
            under_way[name] = (folder, pool.submit(disturb, cluster, folder))
        yield under_way


@pytest.fixture(scope="module")
def submitted(
    cluster: slurm.Cluster, disturbed: Disturbed, smoke_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A clone with all data but one file, whose cells were computed by Slurm jobs on a node that is not disturbed."""
    folder = prepared(tmp_path_factory.mktemp("submitted") / "slimdiff")
    shutil.copytree(smoke_run / IMAGES.parent, folder / IMAGES.parent)
    (folder / IMAGES.with_name("foreign.safetensors")).unlink()
    place = {"SLURM_CONF": str(cluster.folder / "slurm.conf"), "STAGE_FORKS": stage_forks("preloaded")}
    place["PYTHONPATH"] = str(folder / "workflow" / "src")
    done = snakemake(folder, *PROFILE, *PRESETS, *on_node("--nodelist=n1"), **place)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_matrix_equals_that_of_a_local_run_except_for_times(submitted: Path, smoke_run: Path) -> None:
    """The local run has the same two cells, among others."""
    ours = matrix.read_matrix(submitted / "results" / "matrix.parquet").frame
    assert list(ours["status"]) == ["ok"] * 2
    same_but_for_times(submitted, smoke_run)
    assert (submitted / "results" / "report.html").is_file()


def test_a_cell_is_two_jobs_and_short_rules_run_locally(submitted: Path, cluster: slurm.Cluster) -> None:
    names = [
        sbatch_option(cluster, job, "comment").removeprefix("rule_") for job in cluster.jobs(submitted, "--states=all")
    ]
    once = ["foreign", "train"]
    cells = [f"cell_digits_ncsn_{recipe}_0_compress_sample_score" for recipe in ("baseline", "l1-30")]
    assert sorted(name.partition("_wildcards")[0] for name in names) == sorted([*once, *cells, "profile", "profile"])


def test_jobs_request_a_gpu(submitted: Path, cluster: slurm.Cluster) -> None:
    jobs = cluster.jobs(submitted, "--states=all")
    assert {sbatch_option(cluster, job, "tres-per-job") for job in jobs} == {"gres:gpu:1"}


def sbatch_option(cluster: slurm.Cluster, job: str, column: str) -> str:
    """Return an sbatch option of a job, as squeue lists it."""
    listed = cluster.run("squeue", "--noheader", f"--jobs={job}", "--states=all", f"--Format={column}:200")
    return listed.strip()


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_disturbed_training_loses_nothing(name: str, disturbed: Disturbed, smoke_run: Path) -> None:
    folder, outcome = disturbed[name]
    outcome.result()
    record = json.loads((folder / TRAINING / "train.json").read_text(encoding="utf-8"))
    assert record["interruptions"] == 1
    assert "resuming at step" in text_of(folder / LOG)
    weights = TRAINING / "weights.safetensors"
    assert (folder / weights).read_bytes() == (smoke_run / weights).read_bytes(), "the undisturbed weights, bit for bit"
    assert not (folder / STATE).exists()


def test_a_crash_is_retried_twice_and_clusters_without_gpus_get_no_gpu_requests(
    cluster: slurm.Cluster, tmp_path: Path
) -> None:
    """Each job runs the training once: Snakemake on the node leaves retries to the Snakemake that submitted the job."""
    folder = with_stand_ins(clone(tmp_path / "slimdiff"))
    place = {"SLURM_CONF": str(cluster.folder / "slurm.conf"), "STAND_IN_FAILS": "slimdiff.stages.train"}
    target = str(TRAINING / "weights.safetensors")
    arguments = ("--set-resources", "train:gpu=0", "--configfile", "config/smoke.yaml", *on_node("--nodelist=n1"))
    done = snakemake(folder, target, *PROFILE, *arguments, **place)
    assert done.returncode == 1
    assert "error: STAND_IN_FAILS" in done.stdout + done.stderr
    assert "--gpu 0 " in text_of(folder / LOG)
    jobs = cluster.jobs(folder, "--states=all")
    assert list(jobs.values()) == ["FAILED"] * 3
    assert {sbatch_option(cluster, job, "tres-per-job") for job in jobs} == {"N/A"}
    printed = [path.read_text() for path in (folder / ".snakemake" / "slurm_logs").rglob("*.log")]
    assert len(printed) == 3
    assert not [text for text in printed if "Trying to restart" in text]
