"""A cell's model: the weights of its training, compressed by its recipe."""


rule compress:
    input:
        weights=lambda wildcards: get_training(wildcards, rules.train.output.weights),
        images=get_calibration_images,
    output:
        model=f"results/cells/{CELL}/model.safetensors",
        packed=f"results/cells/{CELL}/model.packed",
    log:
        f"results/logs/compress/{CELL}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        usage=f"results/benchmarks/compress/{CELL}.jsonl",
        settings=get_settings(resolve.compress_settings),
        code=get_code("compress"),
        origin=get_origin,
        identity=get_identity,
        cache=ENGINE_CACHE,
    shell:
        "python -u -P -m slimdiff.stages.compress --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --weights {input.weights:q} --images {input.images:q} --cache {params.cache:q}"
        " --origin {params.origin:q} --identity {params.identity} --out {output.model:q} --out-packed {output.packed:q} >{log:q} 2>&1"
