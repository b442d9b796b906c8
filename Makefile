# Everything runs in .venv, made on first use. PYTHON is the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
FIXTURES := fixtures
# A process per core; the tests of a file share what they set up.
PARALLEL := --numprocesses logical --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-slow test-converters lint format fixtures bench check-readme clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade "pip>=24"

# One stamp per set of dependencies, redone when pyproject.toml changes. What pip says is shown only
# where it fails.
define install
	@echo "Installing $(1) into $(VENV) ..."
	@$(BIN)/pip install --editable "$(1)" > $(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log; exit 1; }
	@mkdir -p $(STAMPS) && touch $@
endef

$(STAMPS)/plain: pyproject.toml | $(BIN)/python
	$(call install,.)

$(STAMPS)/%: pyproject.toml | $(BIN)/python
	$(call install,.[$*])

demo: $(STAMPS)/plain ## Scan the bundled backdoored model with its bundled clean images
	@$(BIN)/onnx-soda scan $(FIXTURES)/digits-backdoored.onnx --data $(FIXTURES)/digits-clean.h5 --exit-zero

test: $(STAMPS)/test ## Install what the tests need and run them
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: $(STAMPS)/test ## Run the slow tests too
	$(BIN)/python -m pytest $(PARALLEL)

# Each extra alone in an environment: what one forgets to ask for, another would bring. TensorFlow and
# PyTorch in one would get in each other's way. They take gigabytes.
EXTRAS := pytorch keras sklearn tensorflow

.PRECIOUS: build/venv-%/ready
build/venv-%/ready: pyproject.toml
	@$(PYTHON) -m venv build/venv-$*
	@echo "Installing .[$*] into build/venv-$* ..."
	@build/venv-$*/bin/pip install --quiet --editable ".[$*]" "pytest>=8" "hypothesis>=6.100"
	@touch $@

test-converters: $(EXTRAS:%=build/venv-%/ready) ## Test every converter, each in an environment with its extra alone
	@set -e; for extra in $(EXTRAS); do echo "$$extra"; \
	  build/venv-$$extra/bin/python -m pytest -m $$extra tests/converters; done

lint: $(STAMPS)/lint ## ruff format --check, ruff check, mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMPS)/lint ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fixtures: $(STAMPS)/fixtures ## Make the bundled models and images anew
	$(BIN)/python -m fixtures.graphs
	$(BIN)/python -m fixtures.digits

bench: $(STAMPS)/test ## Measure speed, memory, detection and repair; tables on stdout
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.detection
	$(BIN)/python -m benchmarks.evaluate
	$(BIN)/python -m benchmarks.calibrate
	$(BIN)/python -m benchmarks.repair
	$(BIN)/python -m benchmarks.batches

docs: $(STAMPS)/docs ## Build the pages of docs/ into build/site
	$(BIN)/python -m typer onnx_soda._cli.app utils docs --name onnx-soda --title "Command line" --output docs/cli.md
	$(BIN)/mkdocs build

check-readme: $(STAMPS)/test ## Compare the help shown in README with the real one
	$(BIN)/python -m pytest -q tests/check_readme.py

clean: ## Remove .venv, caches and build folders
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
