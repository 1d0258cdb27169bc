# Every target sets itself up: nothing but Python 3.11+, make and a network to PyPI is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TIMES ?= 50
WORKERS ?= 2
ROLE ?= node

.DEFAULT_GOAL := help
.PHONY: help demo test lint model mutants faults conformance-repeat traces fuzz fuzz-guided bench wheels compose-test clean
.NOTPARALLEL:

help: ## Show this.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 chooses the Python that .venv is made with, ARGS=… is passed on."

demo: $(VENV)/.installed ## Repeat the Oxford experiment on real agents. JSON=FILE writes the rows there too.
	@$(BIN)/python examples/oxford-2025/demo.py $(if $(JSON),--json "$(JSON)") $(ARGS)

test: $(VENV)/.installed-test ## Run the tests, each file in one of WORKERS processes (2). ARGS="-n0 --pdb" is one process.
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.installed-test $(VENV)/.installed-lint ## Check style, types and who imports whom.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

model: $(BIN)/python ## Check the formal models with spin. Needs spin and gcc; ARGS="--trace pair:NO_ACK" shows a mutant's end.
	@$(BIN)/python protocols/formal/check.py $(ARGS)

mutants: $(VENV)/.installed ## Break the protocol code on purpose, and see which checker of simnet notices each fault.
	@$(BIN)/python tests/mutation/run.py $(ARGS)

faults: $(VENV)/.installed-test ## Break agents, stations and brokers on purpose, and see which cases of the conformance kit notice each fault.
	@$(BIN)/python tests/conformance/run.py $(ARGS)

conformance-repeat: $(VENV)/.installed-test ## Run the kit over our agent TIMES times (50): none may fail once. ARGS="--scale 3" on a busy machine.
	@$(BIN)/bellwire conformance --role $(ROLE) --repeat $(TIMES) --start '$(BIN)/bellwire $(ROLE:node=agent) {dir}/$(ROLE).toml' $(ARGS)

traces: $(VENV)/.installed ## See whether seeds have the same traces on every supported Python that is found here.
	@$(BIN)/python tests/simulation/traces.py $(ARGS)

fuzz: $(VENV)/.installed-test ## Feed a million hostile frames each to decoder, network and daemons. ARGS="--inputs 50000 network".
	@$(BIN)/python tests/fuzz/run.py $(ARGS)

fuzz-guided: $(VENV)/.installed-test $(VENV)/.installed-fuzz ## The same for one agent, guided by coverage (atheris). ARGS is libFuzzer's.
	@$(BIN)/python tests/fuzz/guided.py $(or $(ARGS),-runs=1000000 -max_len=4096)

bench: $(VENV)/.installed-bench ## Measure, into bench/results.json and a table.
	@$(BIN)/python bench/run.py $(ARGS)

wheels: $(VENV)/.installed ## Put into .docker/wheels what container images are built from.
	@$(BIN)/python tests/compose/wheels.py .docker/wheels $(ARGS)

compose-test: $(VENV)/.installed ## Herald a pair between containers, on a Docker engine of its own. Needs root and Debian.
	@$(BIN)/python tests/compose/run.py $(ARGS)

clean: ## Remove what the other targets made.
	rm -rf $(VENV) tests/interop/agent/node_modules tests/interop/agent/build .docker .bellwire .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist bench/results.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "bellwire needs Python 3.11 or later: $(PYTHON) is $$($(PYTHON) --version 2>&1). Choose another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null || \
	    { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@
