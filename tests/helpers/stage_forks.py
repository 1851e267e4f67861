"""Stages as forks of one process that has imported torch, which takes longer than most stages of a small run.

Tests copy this file into a clone's package folder as sitecustomize.py, which every Python imports at start-up. A Python
started with `-m slimdiff.…`, `-m snakemake` or `-c` and code of slimdiff then hands its arguments, environment, folder
and standard streams to the server at $STAGE_FORKS, and exits with the fork's exit code; without that variable it runs
the stage itself. The server imports nothing of ours, so that a fork runs the clone's code. Forks end with the Python
that they run for, the server with the process that started it.
"""

import contextlib
import itertools
import os
import pickle
import select
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path

PRELOADED = ("torch", "numpy", "pandas", "altair", "scipy.stats", "pyarrow.parquet", "torch_pruning", "PIL.Image")
LENGTH = struct.Struct("!I")


def fork_stage(address: str) -> int:
    """Run this process's stage in a fork of the server; return its exit code."""
    request = pickle.dumps((sys.orig_argv, sys.path, dict(os.environ), Path.cwd()))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [LENGTH.pack(len(request))], [0, 1, 2])
        connection.sendall(request)
        return LENGTH.unpack(connection.recv(LENGTH.size, socket.MSG_WAITALL))[0]


def serve(address: str) -> list[str]:
    """Fork for each request until standard input ends; return the arguments of `python` in each fork."""
    import gc
    import importlib

    for name in (*PRELOADED, *sys.argv[2:]):
        importlib.import_module(name)
    gc.freeze()  # forks share these objects' memory
    gc.set_threshold(50_000, 20, 50)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        print("ready")
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                return answer(connection)
            connection.close()
    sys.exit()


def answer(connection: socket.socket) -> list[str]:
    """Fork again, for the stage; return its arguments in the fork, and exit here after it."""
    length, streams, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    request = connection.recv(*LENGTH.unpack(length), socket.MSG_WAITALL)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        arguments, sys.path[:], environment, folder = pickle.loads(request)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return list(arguments)
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection], [], [])[0]:  # the Python that it runs for was killed
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(LENGTH.pack(code % 256))
    os._exit(0)


def main(address: str) -> None:
    """Serve; in a fork, run its stage, and exit without taking Python down, which takes half a second."""
    import atexit
    import runpy
    import threading

    arguments = serve(address)
    place = next(place for place, word in enumerate(arguments) if word in ("-m", "-c"))
    kind, program, *sys.argv[1:] = arguments[place:]
    code: object = None
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(program, {"__name__": "__main__"})
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # waits for threads, as Python does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main(sys.argv[1])
elif "STAGE_FORKS" in os.environ and any(
    (option == "-m" and word.startswith(("slimdiff.", "snakemake"))) or (option == "-c" and "slimdiff" in word)
    for option, word in itertools.pairwise(sys.orig_argv)
):
    try:
        exit_code = fork_stage(os.environ["STAGE_FORKS"])
    except Exception:  # raised here, it would only be noted, and the stage would go on
        traceback.print_exc()
        exit_code = 1
    os._exit(exit_code)
