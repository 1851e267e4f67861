"""Scores of a cell's samples: every metric of docs/metrics.md."""


rule score:
    input:
        samples=rules.sample.output.samples,
        baseline=get_same_noise_samples,
        images=rules.data.output.images,
        reference=rules.reference.output.reference,
        extractors=get_extractors,
        foreign=get_foreign,
        classifier=get_classifier,
        inception=get_inception,
    output:
        score=f"results/cells/{CELL}/score.json",
    log:
        f"results/logs/score/{CELL}.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        usage=f"results/benchmarks/score/{CELL}.jsonl",
        settings=get_settings(resolve.score_settings),
        code=get_code("score"),
        identity=get_identity,
        baseline=lambda wildcards, input: ["--baseline", input.baseline] if input.get("baseline") else [],
        foreign=get_foreign_arguments,
    shell:
        "python -u -P -m slimdiff.stages.score --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --samples {input.samples:q} {params.baseline:q} --images {input.images:q} --reference {input.reference:q}"
        " --extractors {input.extractors:q} {params.foreign:q}"
        " --classifier {input.classifier:q} --inception {input.inception:q}"
        " --identity {params.identity} --gpu {resources.gpu} --threads {threads} --out {output.score:q} >{log:q} 2>&1"
