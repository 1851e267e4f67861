"""Jobs of one machine divide its GPUs among themselves. No GPU is needed: devices are only names."""

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slimdiff.runtime.gpus import claim

SOURCE = Path(__file__).parents[2] / "workflow" / "src"
CLAIM = (
    "import sys; from slimdiff.runtime.gpus import claim; "
    "print(claim(tuple(sys.argv[1:])), flush=True); sys.stdin.read()"
)
# A stage's choice of device, with torch patched to report two GPUs.
PICK = """
import sys, types, torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(uuid=sys.argv[1 + index])
torch.cuda.set_device = lambda index: print(index, flush=True)
from slimdiff.runtime.devices import pick_device
assert pick_device(1, 1).type == "cuda"
sys.stdin.read()
"""

Job = subprocess.Popen[str]
Start = Callable[..., list[Job]]


@pytest.fixture
def names() -> list[str]:
    """Return three device names that no other test or job uses."""
    return [str(uuid.uuid4()) for _ in range(3)]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts n jobs at once, which hold their claims until the test ends."""
    started: list[Job] = []

    def begin(n: int, names: list[str], code: str = CLAIM) -> list[Job]:
        command, environment = [sys.executable, "-c", code, *names], {"PYTHONPATH": str(SOURCE)}
        pipe = subprocess.PIPE
        new = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(n)]
        started.extend(new)
        return new

    yield begin
    for job in started:
        job.kill()
        job.communicate()


def device_of(job: Job) -> int:
    assert job.stdout is not None
    return int(job.stdout.readline())


def test_as_many_jobs_as_devices_get_one_each(start: Start, names: list[str]) -> None:
    assert sorted(device_of(job) for job in start(3, names)) == [0, 1, 2]


def test_more_jobs_than_devices_share_evenly(start: Start, names: list[str]) -> None:
    assert Counter(device_of(job) for job in start(6, names)) == {0: 2, 1: 2, 2: 2}


def test_a_killed_job_frees_its_device(start: Start, names: list[str]) -> None:
    jobs = {device_of(job): job for job in start(3, names)}
    jobs[1].kill()
    jobs[1].wait()
    (successor,) = start(1, names)
    assert device_of(successor) == 1


def test_jobs_as_many_at_a_time_as_devices_never_share_one(start: Start, names: list[str]) -> None:
    """As with `--resources gpu=2` on two devices: another job starts whenever one has ended."""
    running = {device_of(job): job for job in start(2, names[:2])}
    assert set(running) == {0, 1}
    for ended in (0, 1, 1, 0, 0, 1):
        running[ended].kill()
        running.pop(ended).wait()
        (job,) = start(1, names[:2])
        device = device_of(job)
        assert device not in running
        running[device] = job


def test_jobs_that_see_different_devices_agree_on_claims(start: Start, names: list[str]) -> None:
    """As with CUDA_VISIBLE_DEVICES, where a GPU has another index in each job."""
    (first,) = start(1, names[2:])
    assert device_of(first) == 0
    (second,) = start(1, [names[2], names[0]])
    assert device_of(second) == 1


def test_a_process_keeps_its_device(names: list[str]) -> None:
    assert claim(tuple(names)) == claim(tuple(names)) == 0


def test_no_device_makes_no_claim() -> None:
    with pytest.raises(ValueError, match="devices is empty"):
        claim(())


def test_stages_on_two_gpus_take_different_ones(start: Start, names: list[str]) -> None:
    assert {device_of(job) for job in start(2, names[:2], PICK)} == {0, 1}
