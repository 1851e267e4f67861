"""A cell's model: the weights of its training, and what its recipe does to them."""


rule compress:
    input:
        weights=lambda wildcards: get_training(wildcards, rules.train.output.weights),
    output:
        model=f"results/cells/{CELL}/model.safetensors",
    log:
        f"results/logs/compress/{CELL}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        settings=get_settings(settings.compress_settings),
        code=get_code("compress"),
    shell:
        "python -u -m slimdiff.stages.compress --settings {params.settings:q} --code {params.code}"
        " --weights {input.weights:q} --out {output.model:q} >{log:q} 2>&1"
