"""The weights of a diffusers folder as a training: the same for every seed. With the output files of rule train.

Of a model of the Hub, the JSON files come when the config is read, which they complete, and the weights by rule hub.
"""


rule pretrained:
    input:
        images=rules.data.output.images,
        folder=get_folder_files,
    output:
        weights=f"results/train/{TRAINING}/weights.safetensors",
        record=f"results/train/{TRAINING}/train.json",
    log:
        f"results/logs/pretrained/{TRAINING}.log",
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
        usage=f"results/benchmarks/pretrained/{TRAINING}.jsonl",
        settings=get_settings(resolve.train_settings),
        code=get_code("pretrained"),
        folder=get_folder,
    shell:
        "python -u -P -m slimdiff.stages.pretrained --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --images {input.images:q} --folder {params.folder:q}"
        " --out-weights {output.weights:q} --out-record {output.record:q} >{log:q} 2>&1"


rule hub:
    output:
        weights=str(HUB / "{file}"),
    log:
        "results/logs/hub/{file}.log",
    wildcard_constraints:
        file=any_of(HUB_WEIGHTS),
    retries: RETRIES  # after a broken connection
    localrule: True  # cluster nodes often lack internet access
    conda:
        ENVIRONMENT
    params:
        name=lambda wildcards: HUB_WEIGHTS[wildcards.file],
        data_dir=lambda wildcards: config["data_dir"],  # the lint takes a string for a prefix of the output
        code=get_code("hub"),
    shell:
        "python -u -P -m slimdiff.stages.hub --name {params.name:q} --code {params.code}"
        " --data-dir {params.data_dir:q} --out {output.weights:q} >{log:q} 2>&1"
