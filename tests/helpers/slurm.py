"""A real Slurm on this machine for the duration of a block: controller, simulated nodes and munge, all on 127.0.0.1.

Debian's packages slurmctld, slurmd, slurm-client and munge, as root; no systemd, no cgroups, no accounting. Everything
lies in one folder, but for a link in /etc/slurm: Snakemake's jobs forget SLURM_CONF. Daemons are children that the
kernel ends with us, so that nothing stays behind even when a test is killed.

By hand, from the project's folder: `python tests/helpers/slurm.py COMMAND …` runs a command with such a cluster.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "munged", "setpriv")
SYSTEM_CONFIG = Path("/etc/slurm/slurm.conf")
START_S, STOP_S = 30.0, 15.0
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
{addresses}
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it starts again: 120 s by default
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
# nothing that needs cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=5
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
InactiveLimit=0
KillWait=10
# seconds for which squeue lists finished jobs; Snakemake reads their exit state there
MinJobAge=7200
CompleteWait=0
JobRequeue=1
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""
# Nodes have the resources that they declare; jobs wait until theirs are free.
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=20000 Gres=gpu:4"
# Slurm sets CUDA_VISIBLE_DEVICES for GPUs with a device file; any character device works.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")


def missing() -> str | None:
    """Return why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "a test cluster is started by root alone"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    if os.path.lexists(SYSTEM_CONFIG) and not _is_abandoned():
        return f"{SYSTEM_CONFIG} exists: this machine belongs to a cluster, or to a test that still runs"
    return None


@dataclass
class Cluster:
    """A running cluster."""

    folder: Path
    nodes: tuple[str, ...]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, *command: str) -> str:
        """Return the output of a Slurm command; raise CalledProcessError if it fails."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Return the caller's environment, changed so that Slurm's commands find this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def jobs(self, folder: Path, *options: str) -> dict[str, str]:
        """Return the state of each unfinished job submitted from `folder`, by its number.

        The option `--states=all` includes finished jobs.
        """
        listed = self.run("squeue", "--noheader", "--format=%A %T %Z", *options).splitlines()
        split = [line.split(maxsplit=2) for line in listed]
        return {number: state for number, state, place in split if place == str(folder)}

    def node_of(self, job: str) -> str:
        """Return the node of a running job; empty for others."""
        return self.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()

    def fail(self, node: str) -> None:
        """Simulate a power cut: kill the node's daemon and all processes of its jobs at once."""
        doomed = self._steps(node)
        self.daemons[f"slurmd {node}"].kill()
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemons[f"slurmd {node}"].wait()

    def start(self, name: str, *command: str) -> None:
        """Start a daemon that ends with this process."""
        log = (self.folder / f"{name.replace(' ', '.')}.log").open("ab")
        self.daemons[name] = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # daemons must not get a Ctrl-C from our terminal
        )

    def start_node(self, name: str) -> None:
        self.start(f"slurmd {name}", "slurmd", "-D", "-N", name)

    def stop(self) -> None:
        """End jobs, then daemons, nodes first; kill daemons that do not end by themselves."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.run("scancel", "--full", "--user=root")
            wait_for(lambda: not self.run("squeue", "--noheader"), STOP_S, "an empty queue")
        orphans = [pid for node in self.nodes for pid in self._steps(node)]
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _steps(self, node: str) -> list[int]:
        """Return the process ids of a node's job steps and their descendants."""
        sockets = (self.folder / f"spool.{node}").glob(f"{node}_*.*")  # one for each step: n1_<job>.<step>
        jobs = {path.name.removeprefix(f"{node}_").partition(".")[0] for path in sockets}
        parents, heads = {}, []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it just ended
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                title = (path / "cmdline").read_bytes().decode(errors="replace")
                if title.startswith("slurmstepd: [") and title[13:].partition(".")[0] in jobs:
                    heads.append(int(path.name))
        found = list(heads)
        for pid in found:  # grows during iteration
            found += [child for child, parent in parents.items() if parent == pid and child not in found]
        return found


@contextlib.contextmanager
def cluster(folder: Path, n_nodes: int = 2) -> Iterator[Cluster]:
    """Start a cluster of `n_nodes` nodes n1, n2, … with its files in `folder`; it ends with the block.

    Raises:
        RuntimeError: it cannot be started here, or did not start in time; the daemons' logs are in the folder.
    """
    if reason := missing():
        raise RuntimeError(reason)
    host = socket.gethostname().partition(".")[0]
    started = Cluster(folder, tuple(f"n{i + 1}" for i in range(n_nodes)))
    ports = _free_ports(n_nodes + 1)
    nodes = [NODE.format(name=name, host=host, port=port) for name, port in zip(started.nodes, ports, strict=False)]
    # Slurm must listen on 127.0.0.1 alone if the host's name resolves to it
    addresses = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if _is_loopback(host) else ""
    text = CONFIG.format(
        folder=folder, host=host, addresses=addresses, controller_port=ports[-1], nodes="\n".join(nodes)
    )
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    gpus = "\n".join(f"NodeName={name} Name=gpu File={file}" for name in started.nodes for file in DEVICES)
    (folder / "gres.conf").write_text(f"AutoDetect=off\n{gpus}\n", encoding="utf-8")
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", *(f"spool.{node}" for node in started.nodes)):
        (folder / name).mkdir()
    with _system_config(folder):
        try:
            places = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
            options = [f"--{option}={folder}/munge.{suffix}" for option, suffix in places.items()]
            started.start("munged", "munged", "--foreground", "--force", *options)
            wait_for((folder / "munge.socket").exists, START_S, "munge")
            started.start("slurmctld", "slurmctld", "-D")
            for node in started.nodes:
                started.start_node(node)
            wait_for(lambda: _n_idle(started) == n_nodes, START_S, f"Slurm (logs in {folder})")
            yield started
        finally:
            started.stop()


@contextlib.contextmanager
def _system_config(folder: Path) -> Iterator[None]:
    """Link the cluster's configuration into Slurm's default folder for the duration of the block."""
    made = not SYSTEM_CONFIG.parent.exists()
    SYSTEM_CONFIG.parent.mkdir(exist_ok=True)
    links = [SYSTEM_CONFIG.with_name(name) for name in ("slurm.conf", "gres.conf")]
    try:
        for link in links:
            if link.is_symlink():  # left by a killed test
                link.unlink()
            link.symlink_to(folder / link.name)
        yield
    finally:
        for link in links:
            if link.is_symlink() and link.readlink().parent == folder:
                link.unlink()
        if made:
            SYSTEM_CONFIG.parent.rmdir()


def _is_abandoned() -> bool:
    """Return whether the configuration was left by a killed test: its controller is dead."""
    if not SYSTEM_CONFIG.is_symlink():
        return False
    record = SYSTEM_CONFIG.readlink().with_name("slurmctld.pid")
    try:
        return Path(f"/proc/{record.read_text().strip()}/comm").read_text() != "slurmctld\n"
    except OSError:
        return True


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as `condition` holds; raise TimeoutError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def _n_idle(started: Cluster) -> int:
    """Return the number of idle nodes; 0 while the controller does not answer."""
    try:
        return started.run("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").count("n")
    except subprocess.CalledProcessError:
        return 0


def _is_loopback(host: str) -> bool:
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False


def _free_ports(n: int) -> list[int]:
    """Return currently unused ports of 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, cluster(Path(name)) as started:
        return subprocess.run(sys.argv[1:], env=started.environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
