"""Which of a machine's GPUs a job takes: one that no other job has, with nobody to ask and nothing to clean up."""

import errno
import functools
import itertools
import socket
from collections.abc import Iterator

_held: list[socket.socket] = []  # open for as long as the process lives


@functools.cache
def claim(devices: tuple[str, ...]) -> int:
    """Take the device that the fewest processes of this machine have taken, the first of them if several.

    A claim is an address in Linux's abstract namespace of sockets (unix(7)): one process at a time can bind it, and the
    kernel frees it however that process ends. Processes beyond the number of devices share them evenly. The claim holds
    until the process ends, and a second call returns the same device.

    Args:
        devices: a name for each device that is the same in all processes, such as its UUID; at least one.

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
    raise ValueError("there is no device to claim")


def _places(n_devices: int) -> Iterator[tuple[int, int]]:
    """(turn, device): one place on every device, then another on every device, without end."""
    return ((turn, index) for turn in itertools.count() for index in range(n_devices)) if n_devices else iter(())
