# Every target works as the first command on a fresh clone: it builds the environment it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests start hundreds of processes; where this is set, each of them would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := runlane projections tests benchmarks examples

.DEFAULT_GOAL := help
.PHONY: help demo test short test-long long check lint types mypy pyright unit stateful simulate fuzz defects mutants chaos \
	chaos-long chaos-peers soak bench format wheel clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.base ## run the main job on the embedded default: every file of the standard library
	@$(BIN)/runlane demo $(ARGS)

test: $(VENV)/.test ## lint and the short form of all tests, 220,000 random steps among them; eight to ten minutes on 2 cores
	$(MAKE) --no-print-directory -j2 lint short

short: $(VENV)/.test ## the short form of all tests alone
	@# pytest compiles its modules in its own way: for the first time two processes do it, or each would do all for itself
	@[ -d tests/__pycache__ ] || { for part in 'tests/[a-g]*/' 'tests/[h-z]*/'; do \
		$(BIN)/python -m pytest -q --collect-only $$part >/dev/null 2>&1 & done; wait; }
	$(BIN)/python -m pytest -q -n 4 --dist worksteal --tier short $(ARGS)

test-long: $(VENV)/.dev ## types and the rest of the tests: every race, fault and defect; ten minutes, or twenty
	$(MAKE) --no-print-directory -j3 mypy pyright long

long: $(VENV)/.test ## the rest of the tests alone
	$(BIN)/python -m pytest -q -n 4 --dist worksteal --tier long $(ARGS)

check: $(VENV)/.dev ## the inner loop: lint, types and the tests that need no database
	$(MAKE) --no-print-directory -j2 lint types unit

lint: $(VENV)/.test ## format and lint checks, and the direction of imports
	$(BIN)/ruff format --check -q $(SOURCES)
	$(BIN)/ruff check -q $(SOURCES)
	$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache

types: mypy pyright ## mypy --strict and pyright

mypy: $(VENV)/.dev
	$(BIN)/mypy

pyright: $(VENV)/.dev
	$(BIN)/pyright

unit: $(VENV)/.test ## the tests that need no database
	$(BIN)/python -m pytest -q tests/unit tests/properties

stateful: $(VENV)/.dev ## random histories of every command beside the model, on each lane: STEPS=100000 SEED=random ARGS="--lane postgres --processes 2"
	$(BIN)/python -W ignore -m tests.stateful $(if $(STEPS),--steps $(STEPS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulate: $(VENV)/.dev ## whole processes on virtual time, faults at every transaction, from one seed: STEPS=100000 SEED=random
	$(BIN)/python -W ignore -m tests.simulation $(if $(STEPS),--steps $(STEPS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: $(VENV)/.dev ## hostile input for every entry point, and random values beside it: EXAMPLES=10000
	$(if $(EXAMPLES),RUNLANE_FUZZ_EXAMPLES=$(EXAMPLES) )$(BIN)/python -m pytest -q tests/hostile --timeout 3600 $(ARGS)

defects: $(VENV)/.dev ## plant one-line defects, each to be killed by its test; ARGS="policy cron" chooses by name
	$(BIN)/python -m tests.defects $(ARGS)

mutants: $(VENV)/.dev ## change folds and decisions in every small way, each to be noticed; ARGS="runs policy" chooses modules
	$(BIN)/python -W ignore -m tests.mutation $(ARGS)

chaos: $(VENV)/.dev ## workers killed at default settings, crowds at once, a log followed (FOLLOW=seconds), three minutes of faults
	$(if $(FOLLOW),RUNLANE_FOLLOW_SECONDS=$(FOLLOW) )$(BIN)/python -m pytest -q tests/chaos $(ARGS)
	$(BIN)/python -m tests.chaos --minutes 2 --database postgres
	$(BIN)/python -m tests.chaos --minutes 1 --database sqlite

CHAOS_OPTIONS = $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON)) $(ARGS)
chaos-long: $(VENV)/.dev ## faults for MINUTES=60, two thirds of them on PostgreSQL: SEED=1 JSON=tally.jsonl
	$(BIN)/python -m tests.chaos --minutes $$(($(or $(MINUTES),60) * 2 / 3)) --database postgres $(CHAOS_OPTIONS)
	$(BIN)/python -m tests.chaos --minutes $$(($(or $(MINUTES),60) / 3)) --database sqlite $(CHAOS_OPTIONS)

chaos-peers: $(VENV)/.dev ## the same faults for Runlane, PgQueuer and Procrastinate, which it installs; ten minutes: SEED=1 JSON=peers.json
	timeout -k 120 1500 $(BIN)/python -m tests.chaos.peers $(CHAOS_OPTIONS)

soak: $(VENV)/.dev ## all faults at half capacity, and nothing may grow: MINUTES=30, halved over both databases, or DATABASE=sqlite
	$(foreach database,$(or $(DATABASE),postgres sqlite),$(BIN)/python -m tests.chaos.soak --database $(database) \
		--minutes $(if $(DATABASE),$(or $(MINUTES),30),$$(($(or $(MINUTES),30) / 2))) $(CHAOS_OPTIONS) &&) true

bench: $(VENV)/.dev ## measure everything, half an hour on each database; results in bench-results/
	$(BIN)/python -m benchmarks all --database postgres --database sqlite --out bench-results/all $(ARGS)

format: $(VENV)/.dev ## format and fix what can be fixed
	$(BIN)/ruff format -q $(SOURCES)
	$(BIN)/ruff check --fix -q $(SOURCES)

wheel: $(VENV)/.dev ## build the sdist and the wheel into dist/
	rm -rf build && $(BIN)/python -m build

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade pip

# The stamps make a second run quick: nothing is installed again until pyproject.toml changes.  What is imported is
# compiled then; of what is installed here that is the lesser part.
$(VENV)/.base: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -e '.[postgres]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -e '.[test]'
	@touch $(VENV)/.base $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -e '.[dev]'
	@touch $(VENV)/.base $(VENV)/.test $@
