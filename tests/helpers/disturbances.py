"""Disturbances of a job by a cluster and its users: each function disturbs a real training and waits for its end.

Each uses its own clone, whose training is slowed down until it is disturbed.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clones import ENVIRONMENT, snakemake
from runs import LOG, PRESETS, PROFILE, STATE, TRAINING, on_node, text_of
from slurm import Cluster, wait_for

PATIENCE_S = 400.0  # for operations that take a minute on an idle machine
STEP_S = 4.0  # of a training of 44 steps, which must outlast a time limit of a minute
WEIGHTS = str(TRAINING / "weights.safetensors")


def reach_the_time_limit(cluster: Cluster, folder: Path) -> None:
    """Let Slurm end the job after a minute, with SIGTERM before SIGKILL; Snakemake resubmits it."""
    started = _begin(cluster, folder, *on_node("--nodelist=n1"))
    (job,) = cluster.jobs(folder)
    cluster.run("scontrol", "update", f"jobid={job}", "timelimit=1")  # set late, since a busy machine starts slowly
    wait_for(lambda: cluster.jobs(folder, "--states=all")[job] == "TIMEOUT", PATIENCE_S, "the time limit")
    (folder / "slow").unlink()
    assert started.wait(PATIENCE_S) == 0, text_of(folder / "snakemake.log")
    assert sorted(cluster.jobs(folder, "--states=all").values()) == ["COMPLETED", "TIMEOUT"]


def lose_the_node(cluster: Cluster, folder: Path) -> None:
    """Cut the node's power after the state was saved; Slurm notices, and starts the job elsewhere."""
    started = _begin(cluster, folder, *on_node("--exclude=n1"))
    wait_for((folder / STATE).exists, PATIENCE_S, "a saved state")
    (job,) = cluster.jobs(folder)
    cluster.fail(cluster.node_of(job))
    (folder / "slow").unlink()
    assert started.wait(PATIENCE_S) == 0, text_of(folder / "snakemake.log")
    assert cluster.jobs(folder, "--states=all") == {job: "COMPLETED"}, "the same job, not another one"


def press_ctrl_c(cluster: Cluster, folder: Path) -> None:
    """Interrupt Snakemake, which cancels its jobs; the next run, local or on the cluster, resumes them."""
    started = _begin(cluster, folder, *on_node("--nodelist=n1"))
    started.send_signal(signal.SIGINT)
    assert started.wait(PATIENCE_S) == 1
    wait_for(lambda: not cluster.jobs(folder), PATIENCE_S, "the queue to be empty")
    wait_for(lambda: not _processes_in(folder), PATIENCE_S, "the jobs' processes to be gone")
    assert list(cluster.jobs(folder, "--states=all").values()) == ["CANCELLED"]
    assert not (folder / WEIGHTS).exists()
    (folder / "slow").unlink()
    done = snakemake(folder, WEIGHTS, "--cores", "1", "--resources", "gpu=0", *PRESETS)
    assert done.returncode == 0, done.stdout + done.stderr


DISTURBANCES: dict[str, Callable[[Cluster, Path], None]] = {
    "time limit": reach_the_time_limit,
    "dead node": lose_the_node,
    "Ctrl-C": press_ctrl_c,
}


def _begin(cluster: Cluster, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a slowed training; return after its first step."""
    (folder / "slow").write_text(str(STEP_S), encoding="utf-8")
    with (folder / "snakemake.log").open("wb") as log:
        # processes started with `&`, and their children, ignore SIGINT
        own = ["env", "--default-signal=INT", sys.executable, "-m", "snakemake", WEIGHTS, *PROFILE, *PRESETS]
        environment = {**ENVIRONMENT, "HOME": str(folder), "SLURM_CONF": str(cluster.folder / "slurm.conf")}
        started = subprocess.Popen([*own, *arguments], cwd=folder, env=environment, stdout=log, stderr=log)
    wait_for(
        lambda: started.poll() is not None or "step " in text_of(folder / LOG),
        PATIENCE_S,
        "the first step of a training",
    )
    assert started.poll() is None, text_of(folder / "snakemake.log")
    return started


def _processes_in(folder: Path) -> list[str]:
    """Return the ids of the processes that run in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder:
                found.append(path.name)
        except OSError:  # it just ended
            continue
    return found
