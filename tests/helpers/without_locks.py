"""Run a command for which no file system has locks: `python without_locks.py ERRNO COMMAND …` (ENOSYS, as on Lustre).

The kernel itself fails every flock of the command and of its children with that error (seccomp, on Linux).
"""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38  # linux/prctl.h, linux/seccomp.h
ALLOW, FAIL = 0x7FFF0000, 0x00050000  # linux/seccomp.h; FAIL has the error number in its lower half
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h: load a word of the call's data, jump if equal, return
CALL, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
FLOCK = {"x86_64": (0xC000003E, 73), "aarch64": (0xC00000B7, 32)}  # architecture and number of the call


def fail_flock(error: int) -> None:
    """Make every flock of this process, and of what it starts, fail with `error`."""
    architecture, number = FLOCK[platform.machine()]
    instructions = [  # code, instructions to skip if equal, if not equal, operand
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 0, 3, architecture),
        (LOAD, 0, 0, CALL),
        (EQUAL, 0, 1, number),
        (RETURN, 0, 0, FAIL | error),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = ctypes.create_string_buffer(struct.pack("HP", len(instructions), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls can be set")


if __name__ == "__main__":
    fail_flock(getattr(errno, sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
