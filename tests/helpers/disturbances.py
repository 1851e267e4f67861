"""What a cluster and its users do to a job: each function disturbs a training for real, and sees it through.

Each works in a clone of its own, whose training is slowed down until it was disturbed.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clones import snakemake
from runs import LOG, PRESETS, PROFILE, STATE, TRAINING, on_node, text_of
from slurm import Cluster, wait_for

PATIENCE_S = 400.0  # for what takes a minute where nothing else runs
WEIGHTS = str(TRAINING / "weights.safetensors")


def reach_the_time_limit(cluster: Cluster, folder: Path) -> None:
    """Slurm ends the job after a minute, with a SIGTERM before the SIGKILL; Snakemake submits it again."""
    started = _begin(cluster, folder, *on_node("--nodelist=n1"))
    (job,) = cluster.jobs(folder)
    cluster.run("scontrol", "update", f"jobid={job}", "timelimit=1")  # only now: a busy machine needs more to begin
    wait_for(lambda: cluster.jobs(folder, "--states=all")[job] == "TIMEOUT", PATIENCE_S, "the time limit")
    (folder / "slow").unlink()
    assert started.wait(PATIENCE_S) == 0, text_of(folder / "snakemake.log")
    assert sorted(cluster.jobs(folder, "--states=all").values()) == ["COMPLETED", "TIMEOUT"]


def lose_the_node(cluster: Cluster, folder: Path) -> None:
    """The node loses its power after the state was saved; Slurm notices, and starts the job elsewhere."""
    started = _begin(cluster, folder, *on_node("--exclude=n1"))
    wait_for((folder / STATE).exists, PATIENCE_S, "a saved state")
    (job,) = cluster.jobs(folder)
    cluster.fail(cluster.node_of(job))
    (folder / "slow").unlink()
    assert started.wait(PATIENCE_S) == 0, text_of(folder / "snakemake.log")
    assert cluster.jobs(folder, "--states=all") == {job: "COMPLETED"}, "the same job, not another one"


def press_ctrl_c(cluster: Cluster, folder: Path) -> None:
    """Snakemake takes its jobs along; the next run, of whatever kind, goes on where they were."""
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
    """Start a slowed training; returns when it has done a step."""
    (folder / "slow").touch()
    with (folder / "snakemake.log").open("wb") as log:
        # SIGINT is ignored by what a shell starts with `&`, and by all that comes of it
        own = ["env", "--default-signal=INT", sys.executable, "-m", "snakemake", WEIGHTS, *PROFILE, *PRESETS]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "SLURM_CONF": str(cluster.folder / "slurm.conf")}
        started = subprocess.Popen([*own, *arguments], cwd=folder, env=environment, stdout=log, stderr=log)
    wait_for(
        lambda: started.poll() is not None or "step " in text_of(folder / LOG),
        PATIENCE_S,
        "the first step of a training",
    )
    assert started.poll() is None, text_of(folder / "snakemake.log")
    return started


def _processes_in(folder: Path) -> list[str]:
    """Process ids of what works in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder:
                found.append(path.name)
        except OSError:  # it ended while we looked
            continue
    return found
