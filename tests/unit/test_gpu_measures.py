"""What a profile measures on a GPU, with an NVML made of fakes; RAPL with a made-up sysfs; the choice of kernels."""

import itertools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from builders import write_small_model

from slimdiff.errors import UserError
from slimdiff.profiling import energy, latency, nvml
from slimdiff.profiling import profile as profiling
from slimdiff.runtime import devices

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SETTINGS = {"batch_size": 4, "repeats": 1, "warmup": 0, "seed": 0}


class NVMLError(Exception):
    """As in pynvml."""


@dataclass
class Driver:
    """A driver with one device; `refused` are the functions that it does not support.

    `handles` are the identifiers that it knows, and `mig` is whether it divides the GPU, None for one that cannot be.
    """

    processes: dict[int, int | None] = field(default_factory=dict)
    millijoules: int = 0
    refused: tuple[str, ...] = ()
    handles: tuple[str, ...] = ("GPU-12ab",)
    mig: bool | None = None

    def module(self) -> ModuleType:
        """Return a module like pynvml, whose handles are the names of devices."""
        made = ModuleType("pynvml")
        made.NVMLError = NVMLError  # type: ignore[attr-defined]
        made.nvmlInit = lambda: self.answer("nvmlInit", None)  # type: ignore[attr-defined]
        for name, value in {
            "nvmlDeviceGetHandleByUUID": self.known,
            "nvmlDeviceGetMigMode": lambda handle: self.known(None if self.mig is None else [int(self.mig), 0]),
            "nvmlDeviceGetTotalEnergyConsumption": lambda handle: self.millijoules,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
                SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes.items()
            ],
        }.items():
            setattr(made, name, lambda argument, name=name, value=value: self.answer(name, value(argument)))
        return made

    def known(self, value: object) -> object:
        if value is None or (isinstance(value, str) and value not in self.handles):
            raise NVMLError(value)
        return value

    def answer(self, name: str, value: object) -> object:
        if name in self.refused:
            raise NVMLError(name)
        return value


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A machine with one CUDA device, of which torch knows the name alone."""
    made = Driver({os.getpid(): 700})
    monkeypatch.setitem(sys.modules, "pynvml", made.module())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12ab"))
    return made


def opened() -> nvml.Nvml:
    found = nvml.open_device(CUDA)
    assert found is not None and found._handle == "GPU-12ab"
    return found


def test_without_a_gpu_the_library_or_the_driver_nothing_is_known(driver, monkeypatch):
    assert nvml.open_device(CPU) is None
    for refused in ("nvmlInit", "nvmlDeviceGetHandleByUUID"):
        driver.refused = (refused,)
        assert nvml.open_device(CUDA) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    assert nvml.open_device(CUDA) is None


@pytest.mark.parametrize(
    ("handles", "mig", "handle"),
    [
        (("GPU-12ab",), False, "GPU-12ab"),
        (("MIG-12ab",), None, "MIG-12ab"),  # a slice
        (("GPU-12ab",), True, None),  # a slice by the identifier of its GPU, whose counters are of all slices
    ],
)
def test_a_slice_of_mig_is_not_its_whole_gpu(driver, handles, mig, handle):
    driver.handles, driver.mig = handles, mig
    found = nvml.open_device(CUDA)
    assert (found and found._handle) == handle


@pytest.mark.parametrize(
    ("processes", "others", "own_bytes"),
    [
        ({"own": 700}, 0, 700),
        ({"own": 700, 1: 50, 2: None}, 2, 700),
        ({"own": None}, 0, None),
        ({4711: 700}, 0, 700),  # in a container: an id of the host
        ({4711: 700, 4712: 50}, 1, None),  # which of them is this one?
        ({}, None, None),  # hidden
    ],
)
def test_processes_are_counted_without_this_one(driver, processes, others, own_bytes):
    driver.processes = {os.getpid() if pid == "own" else pid: used for pid, used in processes.items()}
    assert (opened().other_processes(), opened().process_bytes()) == (others, own_bytes)


def test_what_the_driver_refuses_is_unknown(driver):
    driver.refused = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetComputeRunningProcesses")
    assert (opened().joules(), opened().other_processes(), opened().process_bytes()) == (None, None, None)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr(energy.time, "perf_counter", lambda: made.now)
    return made


def test_energy_per_image_is_the_counters_difference(driver, clock):
    """250 W for runs of 0.3 s: seven of them pass two seconds."""
    runs = []

    def sample() -> None:
        runs.append(1)
        clock.now += 0.3
        driver.millijoules += 75_000

    assert energy.joules_per_image(opened(), sample, images=50) == pytest.approx(1.5)
    assert len(runs) == 7
    driver.millijoules += 10**9  # what others use between measurements does not count
    assert energy.joules_per_image(opened(), sample, images=50) == pytest.approx(1.5)


@pytest.mark.parametrize("refused", [(), ("nvmlDeviceGetTotalEnergyConsumption",)])
def test_a_counter_that_stands_still_or_fails_gives_no_energy(driver, clock, refused):
    driver.refused = refused

    def sample() -> None:
        clock.now += 3.0

    assert energy.joules_per_image(opened(), sample, images=50) is None


def zone(folder: Path, name: str, microjoules: int, kind: str, largest: int = 1_000_000) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    for file, value in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", largest)):
        (path / file).write_text(f"{value}\n", encoding="ascii")
    return path


def test_rapl_is_unknown_once_it_may_have_overflowed_unseen(tmp_path, monkeypatch):
    """A range of 65 kJ at 1 kW: after 65 s without a reading."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(energy.time, "monotonic", lambda: now.s)
    zone(tmp_path, "intel-rapl:0", 5, "package-0", 65_000_000_000)
    counter = energy.open_rapl(tmp_path)
    for now.s, known in ((60.0, True), (124.0, True), (190.0, False), (191.0, False)):
        assert counter is not None
        assert (counter.joules() is not None) == known


def test_rapl_is_the_sum_of_the_packages_beyond_their_overflow(tmp_path, monkeypatch):
    monkeypatch.setattr(energy.time, "monotonic", lambda: 0.0)  # their range lasts a millisecond
    first = zone(tmp_path, "intel-rapl:0", 900_000, "package-0")
    second = zone(tmp_path, "intel-rapl:1", 0, "package-1", 500_000)
    zone(tmp_path, "intel-rapl:0:0", 5, "core")
    zone(tmp_path, "intel-rapl:2", 5, "psys")  # the packages again, and the rest of a laptop
    counter = energy.open_rapl(tmp_path)
    assert counter is not None and counter.joules() == 0.0
    (first / "energy_uj").write_text("200000")  # by 300,000 over the end
    (second / "energy_uj").write_text("400000")
    assert counter.joules() == pytest.approx(0.7)
    (second / "energy_uj").write_text("100000")
    assert counter.joules() == pytest.approx(0.9)
    (second / "energy_uj").unlink()
    assert counter.joules() is None


def test_without_a_readable_package_there_is_no_rapl(tmp_path, monkeypatch):
    assert energy.open_rapl(tmp_path / "none") is None
    zone(tmp_path, "intel-rapl:0", 5, "psys")
    assert energy.open_rapl(tmp_path) is None
    zone(tmp_path, "intel-rapl:1", 5, "package-0")

    def refuse(zone: Path, name: str) -> int:
        raise PermissionError(13, "Permission denied", str(zone / name))  # as for all users but root

    monkeypatch.setattr(energy, "_read", refuse)
    assert energy.open_rapl(tmp_path) is None


def test_a_profile_has_the_energy_of_the_packages(tmp_path, monkeypatch, clock):
    """Each reading finds 20 J more, and two seconds later: one run of four images."""
    ticks = itertools.count()

    def joules(self: energy.Rapl) -> float:
        clock.now += 2.0
        return 20.0 * next(ticks)

    zone(tmp_path, "intel-rapl:0", 5, "package-0")
    rapl = energy.open_rapl(tmp_path)
    monkeypatch.setattr(energy.Rapl, "joules", joules)
    monkeypatch.setattr(profiling, "open_rapl", lambda: rapl)
    write_small_model(tmp_path / "model.safetensors", "ncsn")
    found = profiling.profile(tmp_path / "model.safetensors", SETTINGS, CPU)
    assert (found["energy_j_per_image"], found["energy_source"]) == (pytest.approx(20.0 / 4), "rapl")
    assert found["timed_kernels"] is found["gpu_reserved_bytes"] is found["other_gpu_processes"] is None


@pytest.mark.parametrize(
    ("others_pct", "gpu_processes", "device", "disturbed"),
    [
        (5.0, None, CPU, False),
        (50.0, None, CPU, True),
        (None, None, CPU, None),
        (5.0, 0, CUDA, False),
        (5.0, 1, CUDA, True),
        (None, 1, CUDA, True),
        (50.0, None, CUDA, True),
        (5.0, None, CUDA, None),
        (None, 0, CUDA, None),
    ],
)
def test_either_other_processes_disturb_and_the_unknown_decides_nothing(others_pct, gpu_processes, device, disturbed):
    assert profiling.is_disturbed(others_pct, gpu_processes, device) is disturbed


def test_memory_has_what_cuda_graphs_keep_between_their_kernels(monkeypatch):
    """A pool of 100 bytes whose graph has 30 of results alive; the common pool's free memory does not count."""
    segments = [
        {"segment_pool_id": (0, 0), "total_size": 500, "allocated_size": 50},
        {"segment_pool_id": (0, 1), "total_size": 100, "allocated_size": 30},
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 80)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 600)
    found = profiling.peak_memory(CUDA, None)
    assert found["peak_memory_bytes"] == found["gpu_allocated_bytes"] == 80 + 70
    assert (found["gpu_reserved_bytes"], found["gpu_process_bytes"]) == (600, None)


class Model:
    """A model whose runs take these milliseconds, one after the other."""

    def __init__(self, *ms: float) -> None:
        self.ms = itertools.chain(ms, itertools.repeat(ms[-1]))
        self.runs = 0

    def prepare(self, batch_size: int) -> None:
        """Nothing to compile."""


@pytest.mark.parametrize(
    ("ms", "warmup", "rounds"),
    [
        ((50.0, 20.0, 10.0, 10.4, 10.2, 10.0), 1, 5),
        ((10.0,), 0, 3),
        ((10.0,), 5, 5),
        (tuple(float(n) for n in range(1, 90)), 1, latency.MOST_ROUNDS),  # never
    ],
)
def test_a_gpu_is_warmed_up_until_three_rounds_are_alike(monkeypatch, ms, warmup, rounds):
    """And others are counted in each timed round, the most of them."""
    model, counts = Model(*ms), iter((0, 2, 1))

    def run(loaded: Model, *others: object) -> float:
        loaded.runs += 1
        return next(loaded.ms)

    monkeypatch.setattr(latency, "_run_ms", run)
    counter = SimpleNamespace(other_processes=lambda: next(counts))
    found = latency.time_interleaved(model, None, 1, 3, warmup, 0, CUDA, counter)
    assert model.runs == rounds + 3
    assert (len(found.ms), found.gpu_processes) == (3, 2)


def test_a_warm_up_that_never_settles_ends_after_half_a_minute(monkeypatch):
    """Rounds of ten seconds: three of them may be alike, and a fourth is the last."""
    clock, model = itertools.count(0.0, 10.0), Model(*(float(n) for n in range(1, 90)))
    monkeypatch.setattr(latency.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(latency, "Watch", lambda cores: SimpleNamespace(look=lambda: None, stop=lambda: None))
    monkeypatch.setattr(latency, "_run_ms", lambda loaded, *others: next(loaded.ms))
    found = latency.time_interleaved(model, None, 1, 1, 1, 0, CUDA)
    assert found.ms[0] < latency.MOST_ROUNDS / 2


def test_both_models_have_to_be_warm(monkeypatch):
    monkeypatch.setattr(latency, "_run_ms", lambda loaded, *others: next(loaded.ms))
    slow, fast = Model(10.0), Model(5.0, 4.0, 1.0)
    found = latency.time_interleaved(slow, fast, 1, 2, 1, 0, CUDA)
    assert found.speedups() == pytest.approx([0.1, 0.1])
    assert found.gpu_processes is None


def test_kernels_are_chosen_inside_their_blocks_alone():
    """The settings come back when the work fails; a CPU has none."""
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic)
    with pytest.raises(ZeroDivisionError), devices.autotuned_kernels():
        assert devices.kernels_of(CUDA) == "autotuned"
        assert not cudnn.deterministic
        raise ZeroDivisionError
    assert (cudnn.benchmark, cudnn.deterministic) == before
    assert (devices.kernels_of(CUDA), devices.kernels_of(CPU)) == ("deterministic", None)
    for device in (CPU, CUDA):
        with pytest.raises(ZeroDivisionError), devices.deterministic_operations(device):
            assert torch.are_deterministic_algorithms_enabled() == (device == CUDA)
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            raise ZeroDivisionError
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory


def test_an_operation_that_is_not_deterministic_is_refused_and_other_errors_are_not():
    message = "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set"
    for text, error, matched in (
        (message, UserError, "torch's grid_sampler_2d_backward_cuda cannot.*gpu=0"),
        ("shapes differ", RuntimeError, "^shapes differ$"),
    ):
        with pytest.raises(error, match=matched), devices.deterministic_operations(CUDA):
            raise RuntimeError(text)
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("device", "language"), [(CPU, r"C\+\+"), (CUDA, "C")])
def test_each_device_needs_its_compiler(monkeypatch, device, language):
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in ("clang", "clang++") else None)
    assert devices.find_compiler(device) == ("/bin/clang++" if device == CPU else "/bin/clang")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=f"it needs a {language} compiler"):
        devices.check_compiler(device, "it", "leave it")
