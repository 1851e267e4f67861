# `make` sets up .venv and runs config.yaml; the results end in results/report.html. `make help` lists all targets.
# Variables and examples: make PYTHON=python3.12 CORES=2 GPUS=1 CONSTRAINTS= SNAKEMAKE_ARGS=--dry-run PYTEST_ARGS=-x
# GPUS is the number of jobs that may use a GPU at the same time; it defaults to the GPUs of this machine.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= envs/constraints.txt
CORES ?= all
GPUS ?= $(shell nvidia-smi --list-gpus 2>/dev/null | wc -l)
SNAKEMAKE_ARGS ?=
PYTEST_ARGS ?=

# Rules call `python` by name, so .venv comes first on the path, which the shell finds: a path may hold any character.
IN_VENV := PATH="$$(cd $(VENV) && pwd)/bin:$$PATH"
# Python compiles what it imports; pip would compile 17,000 files, of which few ever are.
PIP_INSTALL := $(VENV)/bin/python -P -m pip install --no-compile $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable
SNAKEMAKE := $(IN_VENV) python -P -m snakemake --cores $(CORES) --resources gpu=$(GPUS)
export PYTHONUTF8 := 1

.PHONY: all smoke study test bench docs schemas lint format venv venv-dev own clean help
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:

all: $(VENV)/.run ## set up .venv and run config.yaml into results/report.html (the default)
	$(SNAKEMAKE) $(SNAKEMAKE_ARGS)

smoke: $(VENV)/.run ## run every stage on tiny data and models, in about five minutes
	$(SNAKEMAKE) --configfile config/smoke.yaml $(SNAKEMAKE_ARGS)

study: $(VENV)/.run ## publish results/ of config/NAME.yaml as docs/results/NAME (default: of config.yaml)
	$(IN_VENV) python -P -m slimdiff.cli publish $(NAME)

test: $(VENV)/.dev ## set up .venv and run all tests, with two processes more than cores, since many tests wait
	$(IN_VENV) OMP_NUM_THREADS=1 python -m pytest --numprocesses $$(($$(nproc) + 2)) \
		--dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: $(VENV)/.dev ## measure speed ratios, interleaved, into results/benchmarks.json
	@mkdir -p results
	@for script in benchmarks/[a-z]*.py; do \
		echo "$$script"; $(IN_VENV) python "$$script" --out results/benchmarks.json || exit 1; \
	done

docs: $(VENV)/.docs ## build the documentation site into results/site; warnings are errors
	$(IN_VENV) NO_MKDOCS_2_WARNING=1 python -m mkdocs build --quiet

schemas: $(VENV)/.run ## write workflow/schemas/row.schema.json and paper.schema.json from the columns
	$(IN_VENV) PYTHONPATH=workflow/src python -m slimdiff.analysis.columns workflow/schemas

lint: $(VENV)/.dev ## run every check of pre-commit and CI
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) snakefmt --check Snakefile workflow
	$(IN_VENV) codespell
	$(IN_VENV) mypy

format: $(VENV)/.dev ## format code and rules, and apply ruff's fixes
	$(IN_VENV) ruff check --fix
	$(IN_VENV) ruff format
	$(IN_VENV) snakefmt Snakefile workflow

venv: $(VENV)/.run ## set up .venv to run the workflow

venv-dev: $(VENV)/.dev ## set up .venv to run, test and lint

# An environment runs the code of the clone that it was made in, also when it is copied or moved with another one.
OWNER := import os, slimdiff; exit(not os.path.samefile(os.path.dirname(slimdiff.__file__), "workflow/src/slimdiff"))
own:
	@[ ! -e $(VENV)/.run ] || $(VENV)/bin/python -I -c '$(OWNER)' 2>/dev/null || { \
		echo "error: $(VENV) was made in another clone, or this one was moved: type make clean, then make again" >&2; \
		exit 1; \
	}

# Stamps are written last, so that the next make resumes an interrupted install.
$(VENV)/.run: pyproject.toml $(CONSTRAINTS) | own
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP_INSTALL) '.[test,dev]'
	@# Tests start Pythons that write no caches. Some packages ship templates that do not compile.
	@$(VENV)/bin/python -P -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	$(PIP_INSTALL) '.[docs]'
	@touch $@

clean: ## remove .venv and caches; results and downloaded data stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find benchmarks tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
