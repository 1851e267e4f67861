"""The weights of a diffusers folder as a training: the same for every seed. With the output files of rule train."""


rule pretrained:
    input:
        images=rules.data.output.images,
        folder=get_folder_files,
    output:
        weights=f"results/train/{TRAINING}/weights.safetensors",
        record=f"results/train/{TRAINING}/train.json",
    log:
        f"results/logs/pretrained/{TRAINING}.log",
    benchmark:
        f"results/benchmarks/pretrained/{TRAINING}.jsonl"
    wildcard_constraints:
        model=any_of(PRETRAINED),
        training=any_of(lookup.first_trainings(config)),
    priority: get_training_priority
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        settings=get_settings(resolve.train_settings),
        code=get_code("pretrained"),
        folder=lambda wildcards: config["models"][wildcards.model]["pretrained"],
    shell:
        "python -u -P -m slimdiff.stages.pretrained --settings {params.settings:q} --code {params.code}"
        " --images {input.images:q} --folder {params.folder:q}"
        " --out-weights {output.weights:q} --out-record {output.record:q} >{log:q} 2>&1"
