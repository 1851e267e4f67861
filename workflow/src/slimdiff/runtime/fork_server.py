"""Stages as forks of one process that has imported torch, which takes longer than much of what stages do.

A run on one machine starts a server (`start`). A job (slimdiff.runtime.job) hands its arguments, environment and
streams to it (`run`) and waits for the fork's exit status. Signals reach the fork through the job; it is terminated
when the job ends, and the server ends with Snakemake. A fork imports the package anew, so it runs the code as it is.

Libraries are loaded with one thread each, and must not have used a GPU: CUDA does not survive a fork.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from slimdiff.runtime.lifetime import die_with_parent

LENGTH = struct.Struct("!I")  # of a request; the exit status
ACCEPTED = b"+"
SIGNALS_WAIT_S = 1.0  # at most: a signal just before a system call is handled after it
SAME = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT)
# A job's signal → its fork's. Ctrl-Z stops both.
FORWARDED: dict[int, int] = {**{int(number): int(number) for number in SAME}, int(signal.SIGTSTP): int(signal.SIGSTOP)}
MODULES = ("torch", "numpy", "safetensors.torch", "torch.fx.experimental.symbolic_shapes")  # what most stages import
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}


def start(modules: Sequence[str], variables: Mapping[str, str]) -> str:
    """Start a server that ends with this process; return the path of its socket, or "" and print why there is none.

    Args:
        modules: what it imports besides MODULES.
        variables: environment variables of its Python that differ from this one's.
    """
    folder = None
    try:
        folder = tempfile.mkdtemp(prefix="slimdiff-")  # only this user may enter it; the server removes it
        address = f"{folder}/forks"
        watched, _ = os.pipe()  # the kernel closes the other end with this process
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(socket.SOMAXCONN)  # jobs that start before the server is ready wait
            command = [sys.executable, "-P", "-u", "-m", "slimdiff.runtime.fork_server", str(listener.fileno())]
            subprocess.Popen(
                [*command, *MODULES, *modules],
                stdin=watched,
                pass_fds=[listener.fileno()],
                env={**os.environ, **ONE_THREAD, **variables},
                start_new_session=True,  # Ctrl-C reaches jobs, which pass it on
            )
        os.close(watched)
    except OSError as error:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"note: no fork server ({error}): each job starts Python anew", file=sys.stderr)
        return ""
    return address


def run(address: str, arguments: Sequence[str], held: int | None) -> None:
    """Run `python -u -P -m` with these arguments as a fork, and exit with its status; return if there is no server.

    Args:
        held: descriptor that the fork keeps open as well.
    """
    request = json.dumps([list(arguments), dict(os.environ), str(Path.cwd())]).encode()
    ended, alive = os.pipe()  # the fork holds the second end
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            streams = [0, 1, 2, alive, *([] if held is None else [held])]
            socket.send_fds(connection, [LENGTH.pack(len(request))], streams)
            connection.sendall(request)
            accepted = connection.recv(len(ACCEPTED))
        except OSError:
            return
        if not accepted:
            return
        os.close(alive)

        def forward(number: int, _: object) -> None:
            with contextlib.suppress(ConnectionError):
                connection.sendall(bytes([FORWARDED[number]]))
            if number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)

        for number in FORWARDED:
            signal.signal(number, forward)
        status = b""
        with contextlib.suppress(ConnectionError):
            while not select.select([connection], [], [], SIGNALS_WAIT_S)[0]:
                pass
            status = connection.recv(LENGTH.size, socket.MSG_WAITALL)
    if len(status) < LENGTH.size:
        os.read(ended, 1)  # until the fork, which is being terminated, has ended
        sys.exit("error: a process of this run's fork server was killed; run the same command again")
    os._exit(*LENGTH.unpack(status))


def serve(listener: socket.socket) -> list[str]:
    """Fork for each request until standard input ends; return the arguments of `python -m` in each fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return _answer(connection)
        connection.close()
    shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)
    os._exit(0)


def _answer(connection: socket.socket) -> list[str]:
    """Fork again, for the stage; return its arguments in the fork, and exit here after it."""
    length, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, 5)
    request = connection.recv(LENGTH.unpack(length)[0], socket.MSG_WAITALL)
    with contextlib.suppress(ConnectionError):
        connection.sendall(ACCEPTED)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        connection.close()
        die_with_parent(keeper)
        for number, stream in enumerate(descriptors[:3]):
            os.dup2(stream, number)
            os.close(stream)
        arguments, environment, folder = json.loads(request)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # as the environment says
        return list(arguments)
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    sources: list[int | socket.socket] = [ended, connection]
    while ended not in select.select(sources, [], [])[0]:
        received = b""
        with contextlib.suppress(ConnectionError):
            received = connection.recv(1)
        os.kill(child, received[0] if received else signal.SIGTERM)
        if not received:  # the job was killed
            sources.remove(connection)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ConnectionError):
        connection.sendall(LENGTH.pack(code if code >= 0 else 128 - code))
    os._exit(0)


def main(argv: Sequence[str]) -> None:
    """Serve; in a fork, run its stage, and exit without taking Python down, which takes half a second."""
    with socket.socket(fileno=int(argv[0])) as listener:
        folder = Path(listener.getsockname()).parent
        try:
            for name in argv[1:]:
                importlib.import_module(name)
            os.close(os.pidfd_open(os.getpid()))  # Linux 5.3
            if len(list(Path("/proc/self/task").iterdir())) > 1:
                raise RuntimeError("a library has started threads, which forks would lack")
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            sys.exit(f"note: no fork server ({error}): each job starts Python anew")
        gc.freeze()  # forks share these objects' memory
        program, *sys.argv[1:] = serve(listener)
    for name in [name for name in sys.modules if name.partition(".")[0] == "slimdiff"]:
        del sys.modules[name]
    code: object = None
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads, as Python does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main(sys.argv[1:])
