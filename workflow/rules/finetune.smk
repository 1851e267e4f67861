"""Trainings that start from another training's weights, with the same output files as rule train."""


rule finetune:
    input:
        images=rules.data.output.images,
        start=lambda wildcards: get_start(wildcards, rules.train.output.weights),
        start_record=lambda wildcards: get_start(wildcards, rules.train.output.record),
    output:
        weights=f"results/train/{TRAINING}/weights.safetensors",
        record=f"results/train/{TRAINING}/train.json",
    log:
        f"results/logs/finetune/{TRAINING}.log",
    wildcard_constraints:
        training=any_of(lookup.later_trainings(config)),
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
        usage=f"results/benchmarks/finetune/{TRAINING}.jsonl",
        settings=get_settings(resolve.finetune_settings),
        code=get_code("finetune"),
        state=f"results/state/train/{TRAINING}",  # not an output, since Snakemake deletes outputs of failed jobs
    shell:
        "python -u -P -m slimdiff.stages.finetune --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --images {input.images:q} --start {input.start:q} --start-record {input.start_record:q}"
        " --state {params.state:q} --gpu {resources.gpu} --threads {threads}"
        " --out-weights {output.weights:q} --out-record {output.record:q} >{log:q} 2>&1"
