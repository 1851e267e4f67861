"""Tables and figures of the matrix, the page results/report.html, and Snakemake's own report results/workflow.html."""

from slimdiff.report.selection import pictured_cells, sample_cells
from slimdiff.report.contents import FIGURE_FORMATS, FIGURE_NAMES, PAGE_ASSETS, TABLE_FORMATS, TABLE_NAMES


rule report:
    input:
        matrix=rules.aggregate.output.matrix,
        findings=rules.claims.output.findings,
        claims=rules.claims.output.claims,
        paper="workflow/resources/paper_reference.csv",
        samples=[rules.sample.output.samples.format(**asdict(cell)) for cell in sample_cells(config)],
        records=get_training_records(),
    output:
        [in_report(f"results/tables/{name}.{suffix}", "Tables") for suffix in TABLE_FORMATS for name in TABLE_NAMES],
        [in_report(f"results/figures/{name}.{suffix}", "Figures") for suffix in FIGURE_FORMATS for name in FIGURE_NAMES],
    log:
        "results/logs/report.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=get_code("report"),
    shell:
        "python -u -P -m slimdiff.stages.report --code {params.code} --matrix {input.matrix:q} --paper {input.paper:q}"
        " --findings {input.findings:q} --claims {input.claims:q} --cells results/cells --trainings results/train"
        " --benchmarks results/benchmarks"
        " --out-tables results/tables --out-figures results/figures >{log:q} 2>&1"


rule page:
    input:
        matrix=rules.aggregate.output.matrix,
        findings=rules.claims.output.findings,
        claims=rules.claims.output.claims,
        paper="workflow/resources/paper_reference.csv",
        tables=[f"results/tables/{name}.md" for name in TABLE_NAMES],
        samples=[rules.sample.output.samples.format(**asdict(cell)) for cell in pictured_cells(config)],
        records=get_training_records(),
        assets=[f"workflow/src/slimdiff/report/page/assets/{name}" for name in PAGE_ASSETS],
    output:
        page="results/report.html",
    log:
        "results/logs/page.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=get_code("page"),
    shell:
        "python -u -P -m slimdiff.stages.page --code {params.code} --matrix {input.matrix:q} --paper {input.paper:q}"
        " --findings {input.findings:q} --claims {input.claims:q} --tables results/tables --cells results/cells"
        " --trainings results/train"
        " --benchmarks results/benchmarks --out {output.page:q} >{log:q} 2>&1"


onsuccess:
    shutil.rmtree("results/so-far", ignore_errors=True)
    write_html("results/workflow.html")


onerror:
    write_so_far("results/so-far")
