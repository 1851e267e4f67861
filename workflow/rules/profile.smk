"""Size, latency and memory of a cell's model. Jobs that measure time claim all cores and the GPU, so they run alone."""


rule profile:
    input:
        model=rules.compress.output.model,
        images=rules.data.output.images,
        baseline=get_baseline,
        guide=get_guide,
        packed=rules.compress.output.packed,
    output:
        profile=f"results/cells/{CELL}/profile.json",
    log:
        f"results/logs/profile/{CELL}.log",
    conda:
        ENVIRONMENT
    threads: get_all_cores if config["profile"]["repeats"] else 1
    resources:
        gpu=get_gpu,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        usage=f"results/benchmarks/profile/{CELL}.jsonl",
        # A fork has the memory of all that its server imported, so what is measured starts Python anew.
        start=["env"] if config["profile"]["repeats"] else [],
        settings=get_settings(resolve.profile_settings),
        code=get_code("profile"),
        identity=get_identity,
        baseline=lambda wildcards, input: ["--baseline", input.baseline] if input.get("baseline") else [],
        guide=get_guide_arguments,
    shell:
        "{params.start:q} python -u -P -m slimdiff.stages.profile --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --model {input.model:q} --images {input.images:q} --packed {input.packed:q} {params.baseline:q}"
        " {params.guide:q}"
        " --identity {params.identity} --gpu {resources.gpu} --threads {threads} --out {output.profile:q} >{log:q} 2>&1"
