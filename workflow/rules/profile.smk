"""What a cell's model costs. Where it is timed the job takes every core and the GPU, so that nothing runs beside it."""


rule profile:
    input:
        model=rules.compress.output.model,
        images=rules.data.output.images,
        reference=get_reference,
        packed=rules.compress.output.packed,
    output:
        profile=f"results/cells/{CELL}/profile.json",
    log:
        f"results/logs/profile/{CELL}.log",
    benchmark:
        f"results/benchmarks/profile/{CELL}.jsonl"
    conda:
        ENVIRONMENT
    threads: get_all_cores if config["profile"]["repeats"] else 1
    resources:
        gpu=get_gpu,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        settings=get_settings(resolve.profile_settings),
        code=get_code("profile"),
        identity=get_identity,
        reference=lambda wildcards, input: ["--reference", input.reference] if input.get("reference") else [],
    shell:
        "python -u -m slimdiff.stages.profile --settings {params.settings:q} --code {params.code}"
        " --model {input.model:q} --images {input.images:q} --packed {input.packed:q} {params.reference:q}"
        " --identity {params.identity} --gpu {resources.gpu} --threads {threads} --out {output.profile:q} >{log:q} 2>&1"
