"""What a cell's model costs. The job takes every core and the GPU, so that nothing runs beside it."""


rule profile:
    input:
        model=rules.compress.output.model,
    output:
        profile=f"results/cells/{CELL}/profile.json",
    log:
        f"results/logs/profile/{CELL}.log",
    conda:
        ENVIRONMENT
    threads: get_all_cores
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        settings=get_settings(settings.profile_settings),
        code=get_code("profile"),
    shell:
        "python -u -m slimdiff.stages.profile --settings {params.settings:q} --code {params.code}"
        " --model {input.model:q} --gpu {resources.gpu} --threads {threads} --out {output.profile:q} >{log:q} 2>&1"
