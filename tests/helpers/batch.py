"""Fake commands of batch systems, to test the scripts of profiles without one.

Called `qsub … SCRIPT`, `qstat -j JOB` or `kubectl …`, by the name of the link to this file. Jobs are processes of this
machine; the folder $BATCH has a file for each: its process id, and for kubectl its manifest.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["BATCH"])


def submit(script: str, folder: str) -> str:
    """Start a script as a job; return its number."""
    with (FOLDER / "output").open("ab") as output:
        started = subprocess.Popen(["bash", script], cwd=folder, stdout=output, stderr=output, start_new_session=True)
    return str(started.pid)


def alive(job: str) -> bool:
    """Return whether a job is running; its parent has exited, so nobody collects its exit code."""
    try:
        return "Z" not in Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def qsub(arguments: list[str]) -> None:
    (FOLDER / "qsub").open("a").write(" ".join(arguments[:-1]) + "\n")
    print(submit(arguments[-1], str(Path.cwd())))


def qstat(arguments: list[str]) -> None:
    if not alive(arguments[-1]):
        sys.exit(f"{arguments[-1]} is not known")
    print(f"{arguments[-1]} runs")


def kubectl(arguments: list[str]) -> None:
    if arguments[0] == "create":
        manifest = json.load(sys.stdin)
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        # run the script alone, without the wrapper that passes SIGTERM on to all processes of a pod
        code = f"bash {container['command'][-1]}; echo $? >{FOLDER}/job-$$.code"
        wrapped = FOLDER / f"{len(list(FOLDER.iterdir()))}.sh"
        wrapped.write_text(code)
        name = "job-" + submit(str(wrapped), container["workingDir"])
        (FOLDER / f"{name}.json").write_text(json.dumps(manifest))
        print(f"{manifest['metadata']['namespace']}/{name}", end="")
    elif arguments[0] == "get":
        code = FOLDER / f"{arguments[2]}.code"
        if code.exists():
            print("SuccessCriteriaMet Complete" if code.read_text() == "0\n" else "FailureTarget Failed", end="")


if __name__ == "__main__":
    {"qsub": qsub, "qstat": qstat, "kubectl": kubectl}[Path(sys.argv[0]).name](sys.argv[1:])
