# `make` does everything: sets up .venv, runs config.yaml and leaves results/report.html. `make help` lists the rest.
# Variables, all with defaults: make PYTHON=python3.12 CORES=2 GPUS=1 CONSTRAINTS= SNAKEMAKE_ARGS=--dry-run PYTEST_ARGS=-x
# GPUS is how many jobs may use a GPU at once; 0, where there is none, lets them run side by side on the CPU.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= envs/constraints.txt
CORES ?= all
GPUS ?= $(shell nvidia-smi --list-gpus 2>/dev/null | wc -l)
SNAKEMAKE_ARGS ?=
PYTEST_ARGS ?=

# Rules call `python` by name, so the environment's programs come first on the path of what we start.
IN_VENV := PATH="$(abspath $(VENV))/bin:$$PATH"
PIP_INSTALL := $(VENV)/bin/python -m pip install $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable
SNAKEMAKE := $(IN_VENV) snakemake --cores $(CORES) --resources gpu=$(GPUS)

.PHONY: all smoke test bench figures lint format venv venv-dev clean help
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:

all: $(VENV)/.run ## set up .venv and run config.yaml; the report is results/report.html (the default)
	$(SNAKEMAKE) $(SNAKEMAKE_ARGS)

smoke: $(VENV)/.run ## the whole way on tiny data and models, in about five minutes
	$(SNAKEMAKE) --configfile config/smoke.yaml $(SNAKEMAKE_ARGS)

test: $(VENV)/.dev ## set up .venv and run all tests, files side by side
	$(IN_VENV) OMP_NUM_THREADS=1 python -m pytest --numprocesses auto --dist loadfile $(PYTEST_ARGS)

bench: $(VENV)/.dev ## side-by-side speed ratios into results/benchmarks.json
	@mkdir -p results
	@for script in benchmarks/[a-z]*.py; do \
		echo "$$script"; $(IN_VENV) python "$$script" --out results/benchmarks.json || exit 1; \
	done

figures: $(VENV)/.run ## draw docs/dag.svg anew, the rules as Snakemake has them
	$(IN_VENV) snakemake --rulegraph --forceall 2>/dev/null | $(VENV)/bin/python docs/draw_dag.py docs/dag.svg

lint: $(VENV)/.dev ## every check that pre-commit and CI make
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) snakefmt --check Snakefile workflow
	$(IN_VENV) codespell
	$(IN_VENV) mypy

format: $(VENV)/.dev ## lay out code and rules, and mend what ruff can
	$(IN_VENV) ruff check --fix
	$(IN_VENV) ruff format
	$(IN_VENV) snakefmt Snakefile workflow

venv: $(VENV)/.run ## set up .venv to run the workflow

venv-dev: $(VENV)/.dev ## set up .venv to test and lint as well

# The stamps are written last: an install that was interrupted goes on at the next make.
$(VENV)/.run: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP_INSTALL) '.[test,dev]'
	@touch $@

clean: ## remove .venv and caches; results and downloaded data stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find benchmarks tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
