"""Stage profile: what a cell's model costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.checkpoints.identity import check_identity
from slimdiff.checkpoints.model import KIND
from slimdiff.io.records import write_json
from slimdiff.io.safetensors_header import read_header
from slimdiff.profiling.profile import profile
from slimdiff.runtime.devices import describe_device, pick_device
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.DeviceArguments):
    """Measure size, arithmetic, latency, memory and denoising loss of a cell's model.

    Run it alone on the machine, unless `repeats` is 0, which skips the timing. If other processes take more than a
    tenth of the cores, it times once more, and then marks the times as disturbed. One on the GPU does so, too.
    """

    model: Annotated[Path, "model.safetensors of the cell"]
    baseline: Annotated[Path | None, "model.safetensors of the baseline, for the speedup"] = None
    guide: command.GuidePath = None
    guide_identity: command.Identity = None
    images: command.ImagesPath
    packed: Annotated[Path, "model.packed of the cell"]
    identity: command.Identity = None
    out: Annotated[Path, "profile.json"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = args.settings
    own_identity = read_header(args.model, KIND).get("identity")
    check_identity(args.model, own_identity, args.identity)
    if args.guide:
        check_identity(args.guide, read_header(args.guide, KIND).get("identity"), args.guide_identity)
    device = pick_device(args.gpu, args.threads)
    measured = profile(args.model, settings, device, args.baseline, args.images, args.guide)
    machine = describe_device(device, args.threads)
    size = {"size_packed_bytes": args.packed.stat().st_size}
    write_json(args.out, {**measured, **size, **machine, "code": args.code, "identity": own_identity})
    if measured.get("disturbed"):
        took = f"took {measured['other_cpu_pct'] or 0:.0f} % of the cores"
        on_gpu = f" and {measured['other_gpu_processes']} were on the GPU" if measured["other_gpu_processes"] else ""
        print(
            f"note: other processes {took}{on_gpu}, so findings and tables leave these times out; on an idle machine, "
            f"delete {args.out} and run again",
            flush=True,
        )
    if measured.get("timed_kernels") and measured["other_gpu_processes"] is None:  # on a GPU
        print(
            "note: whether others used the GPU is unknown, so these times decide nothing: NVML does not say, or is "
            "missing; python -m pip install nvidia-ml-py",
            flush=True,
        )
    if settings["repeats"] and measured.get("batch_size") != settings["batch_size"]:
        again = f"timed with {measured['batch_size']}" if measured.get("batch_size") else "and again with half of them"
        print(f"note: memory ran out at {settings['batch_size']} images at once: {again}", flush=True)


if __name__ == "__main__":
    command.run(main)
