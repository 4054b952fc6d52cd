# psavlm: everything a newcomer needs is one word away. `make help` lists the words.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PRESET ?= tiny
# Only what was asked for: the deployments have presets of their own.
CHOICE := $(if $(filter file,$(origin PRESET)),,--param preset=$(PRESET))
# pip reads PIP_FIND_LINKS by itself, uv must be told.
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")

.DEFAULT_GOAL := help
.PHONY: help install run up down pipeline sweep test check bench bench-gpu prove clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(STAMP)  ## build .venv with the exact versions of constraints.txt; nothing to do when up to date

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 (or make PYTHON=...)"; exit 2; }
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet -c constraints.txt uv; }
	@echo "installing into $(VENV) ..."
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(FIND_LINKS) -c constraints.txt -e '.[dev]'
	@touch $@

run: install  ## run the whole pipeline on this machine (PRESET=tiny-hard for the harder world)
	@$(BIN)/psavlm run --preset $(PRESET)

up: install  ## start Prefect server and worker, Ray head and MLflow page on 127.0.0.1
	@$(BIN)/psavlm up

down:  ## stop them
	@$(BIN)/psavlm down

pipeline: up  ## run the deployed pipeline and follow it (PRESET=... as above); the servers stay up
	@$(BIN)/prefect deployment run psavlm/full-pipeline $(CHOICE) --watch

sweep: up  ## run the deployed ratio sweep and follow it
	@$(BIN)/prefect deployment run psavlm-sweep/ratio-sweep $(CHOICE) --watch

check: install  ## format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: install  ## the test suite, under 15 minutes on two cores
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 8 -m 'not slow and not gpu' tests

prove: install  ## the longer proofs; results go to tests/benchmarks/results/
	@$(BIN)/python -m pytest -m slow tests

bench: install  ## benchmarks; results go to tests/benchmarks/results/
	@$(BIN)/python -m pytest tests/benchmarks --override-ini 'python_files=bench_*.py' -m 'not gpu'

bench-gpu: install  ## training of a LLaVA-1.5-7B's shape on this machine's GPU, random weights
	@$(BIN)/python -m pytest tests/benchmarks --override-ini 'python_files=bench_*.py' -m gpu

clean:  ## remove the environment and all artifacts
	@test ! -x $(BIN)/psavlm || $(BIN)/psavlm down
	rm -rf $(VENV) .psavlm
