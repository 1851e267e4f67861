"""How far samples are from real images: extractors of features, reference statistics, Fréchet distance."""


rule extractors:
    input:
        images=rules.data.output.images,
    output:
        extractors="results/data/{dataset}/extractors.safetensors",
    log:
        "results/logs/extractors/{dataset}.log",
    benchmark:
        "results/benchmarks/extractors/{dataset}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=4000,
        runtime=60,
    params:
        settings=get_settings(settings.extractors_settings),
        code=get_code("extractors"),
    shell:
        "python -u -m slimdiff.stages.extractors --settings {params.settings:q} --code {params.code}"
        " --images {input.images:q} --gpu {resources.gpu} --threads {threads} --out {output.extractors:q} >{log:q} 2>&1"


rule reference:
    input:
        images=rules.data.output.images,
        extractors=get_extractors,
    output:
        reference="results/data/{dataset}/reference.safetensors",
    log:
        "results/logs/reference/{dataset}.log",
    benchmark:
        "results/benchmarks/reference/{dataset}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=4000,
        runtime=60,
    params:
        settings=get_settings(settings.reference_settings),
        code=get_code("reference"),
    shell:
        "python -u -m slimdiff.stages.reference --settings {params.settings:q} --code {params.code}"
        " --images {input.images:q} --extractors {input.extractors:q}"
        " --gpu {resources.gpu} --threads {threads} --out {output.reference:q} >{log:q} 2>&1"


rule score:
    input:
        samples=rules.sample.output.samples,
        reference=rules.reference.output.reference,
        extractors=get_extractors,
    output:
        score=f"results/cells/{CELL}/score.json",
    log:
        f"results/logs/score/{CELL}.log",
    benchmark:
        f"results/benchmarks/score/{CELL}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=4000,
        runtime=30,
    params:
        settings=get_settings(settings.score_settings),
        code=get_code("score"),
    shell:
        "python -u -m slimdiff.stages.score --settings {params.settings:q} --code {params.code}"
        " --samples {input.samples:q} --reference {input.reference:q} --extractors {input.extractors:q}"
        " --gpu {resources.gpu} --threads {threads} --out {output.score:q} >{log:q} 2>&1"
