# How far can a diffusion model be slimmed before its images get worse, and does anything really get faster?
#
#   snakemake -n                              what would run
#   snakemake --cores 1 --resources gpu=1     run what config.yaml lists
#
# Data flow: data → train (→ finetune) → compress → sample → score ─┐
#                                           └──→ profile ───────────┴→ row → aggregate → claims → report → page
from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/machine.smk"


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/pretrained.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/compress.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/reference.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/profile.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        get_targets,
    localrule: True
