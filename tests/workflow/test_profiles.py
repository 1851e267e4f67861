"""Profiles: shared settings, acceptance by Snakemake, and scripts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clones import REPOSITORY, SMOKE, clone, snakemake

PROFILES = REPOSITORY / "profiles"
CLUSTERS = sorted(path.name for path in PROFILES.iterdir() if path.name != "default")
BATCH = Path(__file__).parents[1] / "helpers" / "batch.py"
ASKS_FOR_GPU = re.compile(r"gpu=(1|get_gpu),")  # only for cells whose engine can use one
RULE = re.compile(r"^rule (\w+):\n((?:(?: .*)?\n)+)", re.MULTILINE)


def profile(name: str) -> dict[str, object]:
    content = yaml.safe_load((PROFILES / name / "profile.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.fixture
def batch(tmp_path: Path) -> dict[str, str]:
    """An environment with fake commands of a batch system and of Kubernetes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "jobs").mkdir()
    for name in ("qsub", "qstat", "kubectl"):
        target = tmp_path / "bin" / name
        target.write_text(f"#!{sys.executable}\n{BATCH.read_text(encoding='utf-8')}", encoding="utf-8")
        target.chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "BATCH": str(tmp_path / "jobs"), "SECONDS_FOR_FILES": "1"}


def test_cluster_profiles_include_the_default_profile() -> None:
    """A named profile replaces the default profile as a whole."""
    assert CLUSTERS == ["generic", "kubernetes", "slurm"]
    shared = profile("default")
    for name in CLUSTERS:
        own = profile(name)
        assert {key: own.get(key) for key in shared} == shared, name


def test_the_default_profile_names_no_executor() -> None:
    assert not {"executor", "cores", "jobs", "resources", "default-resources", "groups"} & profile("default").keys()


@pytest.mark.parametrize("name", CLUSTERS)
def test_snakemake_accepts_a_profile(name: str, tmp_path: Path) -> None:
    executor = str(profile(name)["executor"])
    pytest.importorskip(
        f"snakemake_executor_plugin_{executor.replace('-', '_')}", reason="comes with the extra `cluster`"
    )
    done = snakemake(clone(tmp_path / "slimdiff"), "--dry-run", "--workflow-profile", f"profiles/{name}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule train:" in done.stdout + done.stderr


def test_every_job_states_its_resources_and_requests_more_after_a_failure() -> None:
    for name, block in rules().items():
        if "localrule: True" not in block:
            for resource in ("mem_mb", "runtime"):
                assert re.search(rf"^        {resource}=lambda wildcards, attempt: \d+ \* attempt,$", block, re.M), name
            assert "threads: " in block, name


def test_the_documented_resources_match_the_rules() -> None:
    text = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
    listed = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (.+?) \| (\w+) \| (\S+) \| (\S+) \|", text, re.M)}
    expected = {}
    for name, block in rules().items():
        if "localrule: True" not in block:
            requested = [
                re.search(rf"{key}=lambda wildcards, attempt: (\d+)", block)[1] for key in ("mem_mb", "runtime")
            ]  # type: ignore[index]
            threads = re.search(r"threads: (\w+)", block)[1]  # type: ignore[index]
            expected[name] = (
                threads.replace("get_all_cores", "1"),
                "1" if ASKS_FOR_GPU.search(block) else "0",
                *requested,
            )
    assert listed == expected


def test_the_lines_for_a_cluster_without_gpus_name_every_gpu_rule() -> None:
    text = (PROFILES / "slurm" / "profile.yaml").read_text(encoding="utf-8")
    named = re.findall(r"^#   (\w+): {gpu: 0}$", text, re.MULTILINE)
    assert sorted(named) == sorted(name for name, block in rules().items() if ASKS_FOR_GPU.search(block))


def rules() -> dict[str, str]:
    """Return the text of every rule by name."""
    files = sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))
    return dict(found for path in files for found in RULE.findall(path.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generic", "kubernetes"])
def test_jobs_through_a_batch_system(name: str, stood_in: Path, batch: dict[str, str]) -> None:
    """A training, and a cell that is compressed and sampled in one job."""
    pytest.importorskip("snakemake_executor_plugin_cluster_generic", reason="comes with the extra `cluster`")
    path = stood_in / "profiles" / name / "profile.yaml"
    path.write_text(path.read_text().replace("MOUNT=/mnt/slimdiff", f"MOUNT={stood_in.parent}"))
    samples = "results/cells/digits/ncsn/baseline/seed0/samples.npz"
    done = snakemake(
        stood_in, samples, "--workflow-profile", f"profiles/{name}", "--latency-wait", "5", *SMOKE, **batch
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (stood_in / samples).is_file()
    if name == "generic":
        requested = (Path(batch["BATCH"]) / "qsub").read_text().splitlines()
        assert [re.findall(r"h_vmem=\w+|h_rt=\d+|gpu=\d", line) for line in requested] == [
            ["h_vmem=4000M", f"h_rt={240 * 60}", "gpu=1"],
            ["h_vmem=4000M", f"h_rt={(30 + 240) * 60}", "gpu=1"],
        ]
    else:
        manifests = [json.loads(path.read_text()) for path in Path(batch["BATCH"]).glob("*.json")]
        assert sorted(each["spec"]["activeDeadlineSeconds"] for each in manifests) == [240 * 60, (30 + 240) * 60]
        for manifest in manifests:
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            assert container["resources"]["limits"] == {"memory": "4000M", "nvidia.com/gpu": "1"}
            assert container["volumeMounts"][0]["mountPath"] == str(stood_in.parent)


def run(folder: Path, batch: dict[str, str], *command: str) -> str:
    """Return the output of a profile's script, run in `folder`."""
    return subprocess.run(command, cwd=folder, env=batch, capture_output=True, text=True, check=True).stdout.strip()


def status_in_the_end(folder: Path, batch: dict[str, str], job: str) -> str:
    """Return the final status of a job, polled as Snakemake does."""
    for _ in range(200):
        if (found := run(folder, batch, str(PROFILES / "generic" / "status"), "qstat", "-j", job)) != "running":
            return found
    return "running"


@pytest.mark.parametrize(
    ("code", "expected"), [("exit 0", "success"), ("exit 3", "failed"), ("kill -9 $PPID", "failed")]
)
def test_the_generic_status_reports_how_a_job_ended(
    tmp_path: Path, batch: dict[str, str], code: str, expected: str
) -> None:
    """The last one is killed and its files are deleted, so only its absence shows the failure."""
    (tmp_path / "job.sh").write_text(code)
    job = run(tmp_path, batch, str(PROFILES / "generic" / "submit"), "qsub", "-cwd", str(tmp_path / "job.sh"))
    assert status_in_the_end(tmp_path, batch, job) == expected


def test_a_running_job_is_reported_as_running(tmp_path: Path, batch: dict[str, str]) -> None:
    (tmp_path / "job.sh").write_text("read -r _ <'" + str(tmp_path / "pipe") + "'")
    os.mkfifo(tmp_path / "pipe")
    job = run(tmp_path, batch, str(PROFILES / "generic" / "submit"), "qsub", str(tmp_path / "job.sh"))
    assert run(tmp_path, batch, str(PROFILES / "generic" / "status"), "qstat", "-j", job) == "running"
    (tmp_path / "pipe").write_text("go\n")
    assert status_in_the_end(tmp_path, batch, job) == "success"


def test_kubernetes_jobs_outside_the_volume_are_refused(tmp_path: Path, batch: dict[str, str]) -> None:
    settings = {"IMAGE": "python", "CLAIM": "c", "MOUNT": "/mnt/slimdiff", "NAMESPACE": "default"}
    command = [str(PROFILES / "kubernetes" / "submit"), "1", "4000", "10", "0", str(tmp_path / "job.sh")]
    done = subprocess.run(command, env=batch | settings, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not on the volume" in done.stderr
