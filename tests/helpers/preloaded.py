"""What Snakemake imports and collects in every run, and nothing of ours: forks of this process run the clone's code."""

import gc
import importlib

from snakemake.cli import get_argument_parser

LIBRARIES = ("jsonschema.validators", "pandas", "platformdirs", "requests", "smart_open", "yte")
OF_SNAKEMAKE = ("snakemake.profiles", "snakemake.report.html_reporter", "snakemake.storage")

for name in (*LIBRARIES, *OF_SNAKEMAKE):
    importlib.import_module(name)
get_argument_parser()  # finds Snakemake's plugins
gc.freeze()  # forks share these objects' memory
gc.set_threshold(50_000, 20, 50)
