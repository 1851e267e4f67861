"""Tables and figures of the matrix, and Snakemake's report that holds them with the samples."""

from slimdiff.analysis.picks import sample_cells
from slimdiff.analysis.specs import FIGURE_NAMES, TABLE_NAMES


rule report:
    input:
        matrix=rules.aggregate.output.matrix,
        claims=rules.claims.output.claims,
        paper="workflow/resources/paper_reference.csv",
        samples=[rules.sample.output.samples.format(**asdict(cell)) for cell in sample_cells(config)],
    output:
        [in_report(f"results/tables/{name}.csv", "Tables", "table") for name in TABLE_NAMES],
        [f"results/tables/{name}.md" for name in TABLE_NAMES],
        [in_report(f"results/figures/{name}.html", "Figures", "interactive") for name in FIGURE_NAMES],
        [in_report(f"results/figures/{name}.svg", "Figures", "picture") for name in FIGURE_NAMES],
        [f"results/figures/{name}.png" for name in FIGURE_NAMES],
    log:
        "results/logs/report.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        code=get_code("report"),
    shell:
        "python -u -m slimdiff.stages.report --code {params.code} --matrix {input.matrix:q} --paper {input.paper:q}"
        " --claims {input.claims:q} --cells results/cells --out-tables results/tables --out-figures results/figures >{log:q} 2>&1"


onsuccess:
    write_html("results/report.html")
