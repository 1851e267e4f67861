"""What NVIDIA's driver says of a device, by NVML: its energy, and who computes on it.

Needs nvidia-ml-py, the extra `gpu`. A query that the driver does not answer, as on some slices of MIG, gives None.
"""

import os
from typing import Any

import torch


class Nvml:
    """One device.

    Args:
        library: the module pynvml, initialized.
        handle: NVML's handle of the device.
    """

    source = "nvml"  # of an energy

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def joules(self) -> float | None:
        """Return the energy of the whole device since its driver was loaded."""
        millijoules = self._query("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000.0

    def other_processes(self) -> int | None:
        """Return how many other processes compute on the device, on which this one has already computed.

        In a container the driver may list them by ids of the host, so this process is not looked for: it is one of
        them. An empty list hides it, and thus others too.
        """
        listed = self._processes()
        return len(listed) - 1 if listed else None

    def process_bytes(self) -> int | None:
        """Return the device memory of this process, with its context and its kernels."""
        listed = self._processes()
        if len(listed) == 1:
            (own,) = listed.values()
            return own
        return listed.get(os.getpid())

    def _processes(self) -> dict[int, int | None]:
        """Return process id → bytes, None where the driver hides them."""
        found = self._query("nvmlDeviceGetComputeRunningProcesses") or ()
        return {process.pid: process.usedGpuMemory for process in found}

    def _query(self, name: str) -> Any:
        try:
            return getattr(self._library, name)(self._handle)
        except self._library.NVMLError:
            return None


def open_device(device: torch.device) -> Nvml | None:
    """Return a CUDA device in NVML; None for a CPU, without nvidia-ml-py, and where NVML does not know the device.

    A slice of MIG has a handle of its own. That of its whole GPU would count other slices' energy and processes, so
    None if the slice is not known.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    uuid = torch.cuda.get_device_properties(device).uuid
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    for kind in ("MIG", "GPU"):
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"{kind}-{uuid}")
        except pynvml.NVMLError:
            continue
        return None if kind == "GPU" and _is_sliced(pynvml, handle) else Nvml(pynvml, handle)
    return None


def _is_sliced(library: Any, handle: Any) -> bool:
    """Return whether a whole GPU is divided by MIG."""
    try:
        current, _pending = library.nvmlDeviceGetMigMode(handle)
    except library.NVMLError:  # a GPU that cannot be divided
        return False
    return bool(current)
