"""Functions for input, params and resources of several rules, and the targets of a run."""


def get_training(wildcards, path):
    """Input: `path` of the training that a cell uses."""
    names = dict(wildcards.items())
    return path.format(training=lookup.training_of(config, names.pop("optimization")), **names)


def get_start(wildcards, path):
    """Input: `path` of the training that a later training starts from."""
    names = dict(wildcards.items())
    return path.format(training=config["trainings"][names.pop("training")]["start"], **names)


def get_folder(wildcards):
    """Param: the folder of a pretrained model."""
    return str(local_folder(config["models"][wildcards.model]["pretrained"], Path(config["data_dir"])))


def get_folder_files(wildcards):
    """Input: the files that are read in the folder of a pretrained model."""
    return lookup.folder_files(config["models"][wildcards.model]["pretrained"], config["data_dir"])


def first_stage(model):
    """Return the stage that makes the first weights of `model`."""
    return "pretrained" if model in PRETRAINED else "train"


STARTS = {
    (entry["model"], start)
    for entry in config["matrix"]
    for name in entry["optimizations"]
    for start in lookup.chain_of(config, lookup.training_of(config, name))[:-1]
}


def get_training_priority(wildcards):
    """Priority: cells wait for a training, and for those that wait for it."""
    return 20 if (wildcards.model, wildcards.training) in STARTS else 10


def get_calibration_images(wildcards):
    """Input: the images that calibrate an engine or measure layer sensitivity; none if the recipe needs none."""
    needed = lookup.needs_images(config, wildcards.optimization)
    return rules.data.output.images.format(dataset=wildcards.dataset) if needed else []


def get_gpu(wildcards):
    """Resource: one GPU if the cell's engine can use it."""
    return int(lookup.uses_gpu(config, wildcards.optimization))


def get_extractors(wildcards):
    """Input: the extractors that the config names, or else those that rule extractors trains."""
    shipped = config["datasets"][wildcards.dataset].get("extractors")
    return shipped or rules.extractors.output.extractors.format(dataset=wildcards.dataset)


def get_classifier(wildcards):
    """Input: the classifier that the config names, or else the one that rule classifier trains."""
    shipped = config["datasets"][wildcards.dataset].get("classifier")
    return shipped or rules.classifier.output.classifier.format(dataset=wildcards.dataset)


def get_foreign(wildcards):
    """Input: the reference in the features of another data set's extractors, and these; none if the config names none."""
    extractors = config["datasets"][wildcards.dataset].get("foreign_extractors")
    return [rules.foreign.output.reference.format(dataset=wildcards.dataset), extractors] if extractors else []


def get_foreign_arguments(wildcards, input):
    """Param: the options of the stage score for them."""
    return ["--foreign", input.foreign[0], "--foreign-extractors", input.foreign[1]] if input.foreign else []


def get_inception_weights(wildcards):
    """Input: the weights that the config names, or else those that rule inception_weights downloads."""
    given = config["inception"][wildcards.kind]
    downloaded = rules.inception_weights.output.weights.format(kind=wildcards.kind)
    return downloaded if given in (None, "download") else given


def get_inception(wildcards):
    """Input: the reference statistics of the Inception networks in the config; none by default."""
    pattern = rules.inception.output.reference
    return [pattern.format(dataset=wildcards.dataset, kind=kind) for kind in lookup.inception_kinds(config)]


def get_baseline(wildcards):
    """Input: the baseline's model, which a cell's speed is compared with; none if the matrix lacks it."""
    baseline = lookup.baseline_cell(config, **dict(wildcards.items()))
    return rules.compress.output.model.format(**asdict(baseline)) if baseline else []


def get_same_noise_samples(wildcards):
    """Input: the baseline's samples, which a cell's are compared with one by one; none if they have other noise."""
    baseline = lookup.same_noise_cell(config, **dict(wildcards.items()))
    return rules.sample.output.samples.format(**asdict(baseline)) if baseline else []


def get_guide(wildcards):
    """Input: the model of the recipe whose network guides a cell's; none if no recipe does."""
    guide = lookup.guide_cell(config, **dict(wildcards.items()))
    return rules.compress.output.model.format(**asdict(guide)) if guide else []


def get_guide_arguments(wildcards, input):
    """Param: the options of a stage that loads it."""
    guide = lookup.guide_cell(config, **dict(wildcards.items()))
    return ["--guide", input.guide, "--guide-identity", compute_identity(**asdict(guide))] if guide else []


def get_origin(wildcards):
    """Param: the settings and training code that the header of a cell's weights must contain."""
    cell = dict(wildcards.items())
    expected = resolve.origin_settings(config, **cell)
    return canonical({**expected, "code": get_code("finetune" if expected["start"] else first_stage(wildcards.model))})


def get_identity(wildcards):
    """Param: digest of all settings and code behind a cell's model, repeated in the headers of its files."""
    return compute_identity(**dict(wildcards.items()))


@functools.cache  # five rules need the identity of each cell
def compute_identity(**cell):
    trainings = resolve.trainings_settings(config, **cell)
    stages = [first_stage(cell["model"]), *(["finetune"] if len(trainings) > 1 else []), "compress"]
    sources = [trainings, resolve.compress_settings(config, **cell), [get_code(stage) for stage in stages]]
    if guide := lookup.guide_cell(config, **cell):
        sources.append(compute_identity(**asdict(guide)))
    return hashlib.sha256(canonical(sources).encode()).hexdigest()[:16]


def get_all_cores(wildcards):
    """Threads: all cores of a local run; on a cluster one, or the value of set-threads."""
    return workflow.cores if workflow.local_exec and workflow.is_main_process else 1


def get_cell_files(pattern):
    """Return `pattern` for every cell of the matrix."""
    return [pattern.format(**asdict(cell)) for cell in expand(config["matrix"])]


def get_training_records():
    """Return the record of every training used by the matrix."""
    cells = [asdict(cell) for cell in expand(config["matrix"])]
    trainings = [cell | {"training": lookup.training_of(config, cell["optimization"])} for cell in cells]
    return list(dict.fromkeys(rules.train.output.record.format(**training) for training in trainings))


def get_final_output():
    """Return the default targets: the results, and every cell's model and grid of samples."""
    cells = [rules.compress.output.model, rules.compress.output.packed, rules.sample.output.grid]
    shared = [*rules.aggregate.output, *rules.claims.output, *rules.report.output, *rules.page.output]
    return [*shared, *(path for cell in cells for path in get_cell_files(cell))]


def get_targets(wildcards):
    """Input: the default targets. Exit with one line if a run or a dry run of them lacks space on the disk."""
    if workflow.is_main_process and workflow.executor_plugin is not None:  # no --unlock, --delete-all-output, …
        if problem := space_problem(config, DATASET_FACTS, Path("results")):
            sys.exit(f"error: {problem}")
    return get_final_output()


IN_REPORT = {".csv": "table", ".html": "interactive", ".svg": "picture"}  # suffix → label in Snakemake's report


def in_report(path, category):
    """Output: `path`, listed by name in Snakemake's report if it has files of this suffix."""
    name, suffix = Path(path).stem, Path(path).suffix
    labels = {"name": name, "format": IN_REPORT.get(suffix)}
    return report(path, caption=f"../report/{name}.rst", category=category, labels=labels) if labels["format"] else path


def write_html(path):
    """Write Snakemake's own report with a second Snakemake, since the report needs this run's finished results."""
    if not all(Path(output).exists() for output in get_final_output()):
        return  # this run had other targets
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        arguments = ["--report", path, "--nolock", "--replace-workflow-config", "--configfile", file.name]
        if subprocess.run([sys.executable, "-P", "-m", "snakemake", "--quiet", "all", *arguments]).returncode == 0:
            logger.info(f"Report: {path}")


def write_so_far(folder):
    """After failed jobs: write the matrix of the finished cells and the last stage of the others.

    Skipped after Ctrl-C, which interrupts jobs without failing them: the user wants to stop.
    """
    rows = get_cell_files(rules.row.output.row)
    if not workflow.is_main_process or not workflow.scheduler.failed or not any(map(os.path.exists, rows)):
        return
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)
        file.flush()
        command = [sys.executable, "-P", "-m", "slimdiff.cli", "matrix", "--config", file.name, "--out", folder]
        environment = {**os.environ, "PYTHONPATH": PACKAGE}
        subprocess.run(command, env=environment, stdout=sys.stderr)
