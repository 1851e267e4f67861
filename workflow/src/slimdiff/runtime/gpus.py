"""A machine's GPUs: whether there are any, and claims of one for a job, without a server or files to clean up."""

import errno
import functools
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

_held: list[socket.socket] = []  # open until the process ends


def has_gpu() -> bool:
    """Return whether this machine has a device of NVIDIA's or AMD's driver, without loading one."""
    return Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


@functools.cache
def claim(devices: tuple[str, ...]) -> int:
    """Claim the device with the fewest claims on this machine; the first of several.

    A claim is an address in Linux's abstract namespace of sockets (unix(7)). One process at a time can bind it, and the
    kernel frees it however that process ends. Processes beyond the number of devices share the devices evenly. A second
    call returns the same device.

    Args:
        devices: a name for each device, the same in all processes, such as its UUID; at least one.

    Returns:
        The device's index in `devices`.
    """
    for turn, index in _places(len(devices)):
        address = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            address.bind(f"\0slimdiff/{devices[index]}/{turn}")
        except OSError as error:
            address.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            _held.append(address)
            return index
    raise ValueError("devices is empty; pass one name or more")


def _places(n_devices: int) -> Iterator[tuple[int, int]]:
    """Yield (turn, device) without end: one place on every device, then a second one on every device, …"""
    return ((turn, index) for turn in itertools.count() for index in range(n_devices)) if n_devices else iter(())
