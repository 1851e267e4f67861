"""One training per data set × model × training × seed: raw and EMA weights, shared by all cells that use them.

Trainings from random weights only; rules/finetune.smk has those that start from another training, and
rules/pretrained.smk the weights of a diffusers folder.
"""


rule train:
    input:
        images=rules.data.output.images,
    output:
        weights=f"results/train/{TRAINING}/weights.safetensors",
        record=f"results/train/{TRAINING}/train.json",
    log:
        f"results/logs/train/{TRAINING}.log",
    wildcard_constraints:
        model=any_of(name for name in config["models"] if name not in PRETRAINED),
        training=any_of(lookup.first_trainings(config)),
    priority: get_training_priority
    retries: RETRIES  # a killed training resumes from its state
    conda:
        ENVIRONMENT
    threads: 1  # two trainings of one thread each are faster than one of two threads
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        usage=f"results/benchmarks/train/{TRAINING}.jsonl",
        settings=get_settings(resolve.train_settings),
        code=get_code("train"),
        state=f"results/state/train/{TRAINING}",  # not an output, since Snakemake deletes outputs of failed jobs
    shell:
        "python -u -P -m slimdiff.stages.train --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --images {input.images:q} --state {params.state:q} --gpu {resources.gpu} --threads {threads}"
        " --out-weights {output.weights:q} --out-record {output.record:q} >{log:q} 2>&1"
