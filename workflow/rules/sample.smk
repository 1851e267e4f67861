"""Samples of a cell's model."""


rule sample:
    input:
        model=rules.compress.output.model,
        guide=get_guide,
    output:
        samples=f"results/cells/{CELL}/samples.npz",
        grid=report(
            f"results/cells/{CELL}/grid.png",
            caption="../report/grid.rst",
            category="Samples",
            subcategory="{dataset} {model}",
            labels={"optimization": "{optimization}", "seed": "{seed}"},
        ),
    log:
        f"results/logs/sample/{CELL}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=get_gpu,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        usage=f"results/benchmarks/sample/{CELL}.jsonl",
        settings=get_settings(resolve.sample_settings),
        code=get_code("sample"),
        identity=get_identity,
        cache=ENGINE_CACHE,
        guide=get_guide_arguments,
    shell:
        "python -u -P -m slimdiff.stages.sample --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --model {input.model:q} --gpu {resources.gpu} --threads {threads} --cache {params.cache:q}"
        " {params.guide:q}"
        " --identity {params.identity} --out {output.samples:q} --out-grid {output.grid:q} >{log:q} 2>&1"
