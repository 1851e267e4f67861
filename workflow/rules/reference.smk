"""Inputs of scoring: extractors and reference statistics, the classifier, and optional Inception networks."""


rule extractors:
    input:
        images=rules.data.output.images,
    output:
        extractors="results/data/{dataset}/extractors.safetensors",
    log:
        "results/logs/extractors/{dataset}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        usage="results/benchmarks/extractors/{dataset}.jsonl",
        settings=get_settings(resolve.extractors_settings),
        code=get_code("extractors"),
    shell:
        "python -u -P -m slimdiff.stages.extractors --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --images {input.images:q} --gpu {resources.gpu} --threads {threads} --out {output.extractors:q} >{log:q} 2>&1"


rule classifier:
    input:
        images=rules.data.output.images,
    output:
        classifier="results/data/{dataset}/classifier.safetensors",
    log:
        "results/logs/classifier/{dataset}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        usage="results/benchmarks/classifier/{dataset}.jsonl",
        settings=get_settings(resolve.classifier_settings),
        code=get_code("classifier"),
    shell:
        "python -u -P -m slimdiff.stages.classifier --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --images {input.images:q} --gpu {resources.gpu} --threads {threads} --out {output.classifier:q} >{log:q} 2>&1"


rule reference:
    input:
        images=rules.data.output.images,
        extractors=get_extractors,
    output:
        reference="results/data/{dataset}/reference.safetensors",
    log:
        "results/logs/reference/{dataset}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        usage="results/benchmarks/reference/{dataset}.jsonl",
        settings=get_settings(resolve.reference_settings),
        code=get_code("reference"),
    shell:
        "python -u -P -m slimdiff.stages.reference --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --images {input.images:q} --extractors {input.extractors:q}"
        " --gpu {resources.gpu} --threads {threads} --out {output.reference:q} >{log:q} 2>&1"


rule foreign:
    input:
        images=rules.data.output.images,
        extractors=lambda wildcards: config["datasets"][wildcards.dataset]["foreign_extractors"],
    output:
        reference="results/data/{dataset}/foreign.safetensors",
    log:
        "results/logs/foreign/{dataset}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        usage="results/benchmarks/foreign/{dataset}.jsonl",
        settings=get_settings(resolve.foreign_settings),
        code=get_code("reference"),
    shell:
        "python -u -P -m slimdiff.stages.reference --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --images {input.images:q} --extractors {input.extractors:q}"
        " --gpu {resources.gpu} --threads {threads} --out {output.reference:q} >{log:q} 2>&1"


rule inception_weights:
    output:
        weights="results/inception/{kind}.pth",
    log:
        "results/logs/inception_weights/{kind}.log",
    localrule: True  # cluster nodes often lack internet access
    conda:
        ENVIRONMENT
    resources:
        data_dir=config["data_dir"],  # a resource, not a param: moving the folder reruns nothing
    params:
        settings=get_settings(resolve.inception_weights_settings),
        code=get_code("inception_weights"),
    shell:
        "python -u -P -m slimdiff.stages.inception_weights --settings {params.settings:q} --code {params.code}"
        " --data-dir {resources.data_dir:q} --out {output.weights:q} >{log:q} 2>&1"


rule inception:
    input:
        images=rules.data.output.images,
        weights=get_inception_weights,
    output:
        reference="results/data/{dataset}/inception-{kind}.safetensors",
    log:
        "results/logs/inception/{dataset}-{kind}.log",
    conda:
        ENVIRONMENT
    threads: get_all_cores  # 60,000 images take an hour and a half on two cores
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        usage="results/benchmarks/inception/{dataset}-{kind}.jsonl",
        settings=get_settings(resolve.inception_settings),
        code=get_code("inception"),
    shell:
        "python -u -P -m slimdiff.stages.inception --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --images {input.images:q} --weights {input.weights:q}"
        " --gpu {resources.gpu} --threads {threads} --out {output.reference:q} >{log:q} 2>&1"
