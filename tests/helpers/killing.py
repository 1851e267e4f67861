"""Trainings stopped half-way: in process by SIGTERM, or as a process by kill -9."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import SOURCE

from slimdiff.io.safetensors_header import read_header
from slimdiff.training.state import StateStore


@contextlib.contextmanager
def terminated_at_save(number: int) -> Iterator[None]:
    """Send SIGTERM to the training in the block after its state was saved `number` times; it must exit with 143."""
    saves, original = 0, StateStore.save

    def save_then_terminate(self: StateStore, *arguments: Any) -> None:
        nonlocal saves
        original(self, *arguments)
        saves += 1
        if saves == number:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateStore, "save", save_then_terminate)
        with pytest.raises(SystemExit) as stopped:
            yield
    assert stopped.value.code == 143


def killed_half_way_and_resumed(tmp_path: Path, command: Callable[[Path], list[str]], steps: int) -> None:
    """Train twice, undisturbed in this process, and in others with a kill -9: both must write the same files.

    Args:
        command: from a folder to the stage's command line, with state in `state`, weights in w.safetensors and the
            record in train.json.
        steps: number of steps of the training.
    """
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    words, threads = command(calm), torch.get_num_threads()
    module = words.index("-m") + 1
    importlib.import_module(words[module]).main(words[module + 1 :])
    torch.set_num_threads(threads)
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    state = killed / "state" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
    step = read_header(state, "state")["progress"]["step"]
    assert 0 < step < steps
    (killed / "state" / ".state.cut.safetensors").touch()  # as of a kill while it was being saved

    resumed = subprocess.run(command(killed), check=True, capture_output=True, text=True, env=environment)
    assert f"resuming at step {step}/" in resumed.stdout
    assert json.loads((killed / "train.json").read_text())["interruptions"] == 1
    assert (calm / "w.safetensors").read_bytes() == (killed / "w.safetensors").read_bytes()
    assert not (killed / "state").exists()
