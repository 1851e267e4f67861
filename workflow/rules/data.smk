"""Images of a data set, as uint8."""


rule data:
    output:
        images="results/data/{dataset}/images.safetensors",
    log:
        "results/logs/data/{dataset}.log",
    localrule: True  # cluster nodes often lack internet access
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=30,
        data_dir=config["data_dir"],  # a resource, not a param: moving the folder reruns nothing
    params:
        usage="results/benchmarks/data/{dataset}.jsonl",
        settings=get_settings(resolve.data_settings),
        code=get_code("data"),
        listing=get_folder_listing,
    shell:
        "python -u -P -m slimdiff.stages.data --settings {params.settings:q} --code {params.code}"
        " --usage {params.usage:q}"
        " --data-dir {resources.data_dir:q} --out {output.images:q} >{log:q} 2>&1"
