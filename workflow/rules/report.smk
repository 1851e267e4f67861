"""Tables and figures of the matrix, and Snakemake's report that holds them with the samples."""

TABLES = ["table-1", "table-2", "table-3", "samplers", "cells"]
FIGURES = ["figure-1", "pareto"]


rule report:
    input:
        matrix=rules.aggregate.output.matrix,
        paper="workflow/resources/paper_reference.csv",
    output:
        [in_report(f"results/tables/{name}.csv", "Tables", "table") for name in TABLES],
        [f"results/tables/{name}.md" for name in TABLES],
        [in_report(f"results/figures/{name}.html", "Figures", "interactive") for name in FIGURES],
        [in_report(f"results/figures/{name}.svg", "Figures", "picture") for name in FIGURES],
        [f"results/figures/{name}.png" for name in FIGURES],
    log:
        "results/logs/report.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=get_code("report"),
    shell:
        "python -u -m slimdiff.stages.report --code {params.code} --matrix {input.matrix:q} --paper {input.paper:q}"
        " --out-tables results/tables --out-figures results/figures >{log:q} 2>&1"


onsuccess:
    write_html("results/report.html")
