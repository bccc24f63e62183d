# UsageFlow: every task a person or CI runs. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench torture lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(VENV)/.all ## Run the whole product on loopback with real traffic (ARGS=--once to stop when settled)
	@$(BIN)/usageflow demo $(ARGS)

test: check ## Set up, check, and run the whole suite with coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

check: $(VENV)/.dev ## Lint, format check, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Rewrite the source in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Measure the hot paths and print ratios (see docs/benchmarks.md)
	$(BIN)/python -m bench $(ARGS)

torture: $(VENV)/.dev ## The long trials: many more kills, power cuts, full disks
	USAGEFLOW_TORTURE=1 $(BIN)/python -m pytest -m kill --timeout 3600 $(ARGS)

lock: ## Pin every dependency again (needs uv from PyPI on PATH)
	uv pip compile pyproject.toml --extra all --group build --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -q -U -o requirements/all.txt
	uv pip compile pyproject.toml --extra all --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -q -U -c requirements/all.txt -o requirements/dev.txt

clean: ## Remove what the tasks made
	rm -rf $(VENV) .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: requirements/all.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing pinned dependencies (about half a minute) ..."
	@test -f $(VENV)/.dev || $(PIP) install --require-hashes -r requirements/all.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing pinned dependencies and test tools (about a minute) ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.all
