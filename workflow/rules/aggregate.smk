"""One row per cell, all rows in one matrix, and the verdicts on the claims."""


rule row:
    input:
        train=lambda wildcards: get_training(wildcards, rules.train.output.record),
        score=rules.score.output.score,
        profile=rules.profile.output.profile,
    output:
        row=f"results/cells/{CELL}/row.json",
    log:
        f"results/logs/row/{CELL}.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        cell=get_settings(resolve.row_settings),
        code=get_code("row"),
        identity=get_identity,
    shell:
        "python -u -P -m slimdiff.stages.row --cell {params.cell:q} --code {params.code}"
        " --train {input.train:q} --score {input.score:q} --profile {input.profile:q} --identity {params.identity}"
        " --out {output.row:q} >{log:q} 2>&1"


rule aggregate:
    input:
        rows=get_cell_files(rules.row.output.row),
    output:
        matrix="results/matrix.parquet",
    log:
        "results/logs/aggregate.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        matrix=canonical(resolve.matrix_settings(config)),
        config=canonical(resolve.provenance(config)),
        code=get_code("aggregate"),
    shell:
        "python -u -P -m slimdiff.stages.aggregate --matrix {params.matrix:q} --config {params.config:q} --code {params.code}"
        " --cells results/cells --out {output.matrix:q} >{log:q} 2>&1"


rule claims:
    input:
        matrix=rules.aggregate.output.matrix,
        paper="workflow/resources/paper_reference.csv",
        claims=config["claims"],
    output:
        claims="results/claims.json",
        findings="results/findings.json",
    log:
        "results/logs/claims.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=canonical(resolve.claims_settings(config)),
        code=get_code("claims"),
    shell:
        "python -u -P -m slimdiff.stages.claims --settings {params.settings:q} --code {params.code} --matrix {input.matrix:q}"
        " --paper {input.paper:q}"
        " --claims {input.claims:q} --out {output.claims:q} --out-findings {output.findings:q} >{log:q} 2>&1"
