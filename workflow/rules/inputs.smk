"""Functions that rules call: what a job reads, how many cores it takes, what a run makes in the end."""


def get_training(wildcards, path):
    """Input: `path` of the training that a cell starts from."""
    names = dict(wildcards.items())
    return path.format(training=resolve.training_of(config, names.pop("optimization")), **names)


def get_start(wildcards, path):
    """Input: `path` of the training that another one starts from."""
    names = dict(wildcards.items())
    return path.format(training=config["trainings"][names.pop("training")]["start"], **names)


def get_calibration_images(wildcards):
    """Input: the images that an engine's network is calibrated on and held against; none for engine torch in fp32."""
    needed = resolve.needs_images(config, wildcards.optimization)
    return rules.data.output.images.format(dataset=wildcards.dataset) if needed else []


def get_gpu(wildcards):
    """Resource: one GPU where a cell's engine can use it."""
    return int(resolve.uses_gpu(config, wildcards.optimization))


def get_extractors(wildcards):
    """Input: the extractors that come with slimdiff or that the user names, else those that a job trains."""
    shipped = config["datasets"][wildcards.dataset].get("extractors")
    return shipped or rules.extractors.output.extractors.format(dataset=wildcards.dataset)


def get_classifier(wildcards):
    """Input: the judge that comes with slimdiff or that the user names, else the one that a job trains."""
    shipped = config["datasets"][wildcards.dataset].get("classifier")
    return shipped or rules.classifier.output.classifier.format(dataset=wildcards.dataset)


def get_inception_weights(wildcards):
    """Input: the file that the user names, else the one that a job downloads."""
    given = config["inception"][wildcards.kind]
    downloaded = rules.inception_weights.output.weights.format(kind=wildcards.kind)
    return downloaded if given in (None, "download") else given


def get_inception(wildcards):
    """Input: the references of the Inception networks that the configuration asks for, none by default."""
    pattern = rules.inception.output.reference
    return [pattern.format(dataset=wildcards.dataset, kind=kind) for kind in resolve.inception_kinds(config)]


def get_reference(wildcards):
    """Input: the model that a cell's speed is held against; none where the matrix does not hold it."""
    reference = resolve.reference_of(config, **dict(wildcards.items()))
    return rules.compress.output.model.format(**asdict(reference)) if reference else []


def get_origin(wildcards):
    """Param: what the weights that a cell is made from must say of themselves."""
    cell = dict(wildcards.items())
    expected = resolve.origin_settings(config, **cell)
    return canonical({**expected, "code": get_code("finetune" if expected["start"] else "train")})


def get_identity(wildcards):
    """Param: digest of all settings and code that a cell's model comes from; its files carry it."""
    return identity_of(**dict(wildcards.items()))


@functools.cache  # five rules ask for each cell's
def identity_of(**cell):
    trainings = resolve.trainings_settings(config, **cell)
    stages = ["train", *(["finetune"] if len(trainings) > 1 else []), "compress"]
    known = [trainings, resolve.compress_settings(config, **cell), [get_code(stage) for stage in stages]]
    return hashlib.sha256(canonical(known).encode()).hexdigest()[:16]


def get_all_cores(wildcards):
    """Threads: every core that a run on this machine was given; on a cluster one, or what set-threads says."""
    return workflow.cores if workflow.local_exec and workflow.is_main_process else 1


def get_cell_files(pattern):
    """The paths that `pattern` stands for in all cells of the matrix."""
    return [pattern.format(**asdict(cell)) for cell in resolve.expand(config["matrix"])]


def get_training_records():
    """The record of each training that a cell of the matrix starts from."""
    cells = [asdict(cell) for cell in resolve.expand(config["matrix"])]
    trainings = [cell | {"training": resolve.training_of(config, cell["optimization"])} for cell in cells]
    return list(dict.fromkeys(rules.train.output.record.format(**training) for training in trainings))


def get_final_output():
    """What `snakemake` makes when it is told nothing else: results, and the models and pictures that people go on with."""
    cells = [rules.compress.output.model, rules.compress.output.packed, rules.sample.output.grid]
    shared = [*rules.aggregate.output, *rules.claims.output, *rules.report.output, *rules.page.output]
    return [*shared, *(path for cell in cells for path in get_cell_files(cell))]


def in_report(path, category, format):
    """Output: `path`, shown in the report under its name."""
    name = Path(path).stem
    return report(path, caption=f"../report/{name}.rst", category=category, labels={"name": name, "format": format})


def write_html(path):
    """Let a second Snakemake write its report: it reads finished results, so no job of this run could."""
    if not all(Path(output).exists() for output in get_final_output()):
        return  # only a part was requested for
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        arguments = ["--report", path, "--nolock", "--replace-workflow-config", "--configfile", file.name]
        if subprocess.run([sys.executable, "-m", "snakemake", "--quiet", "all", *arguments]).returncode == 0:
            logger.info(f"Report: {path}")


def write_so_far(folder, logs):
    """After jobs that failed, not after Ctrl-C: the matrix of the cells that are done, and where the others stopped."""
    said = "".join(Path(log).read_text(errors="replace") for log in logs) if workflow.is_main_process else ""
    if "Error in rule" not in said or "on user request" in said or "Will exit after finishing" in said:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)
        file.flush()
        command = [sys.executable, "-m", "slimdiff.cli", "matrix", "--config", file.name, "--out", folder]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        subprocess.run(command, env=environment, stdout=sys.stderr)
