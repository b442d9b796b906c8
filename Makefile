# Everything runs in .venv, made on first use. PYTHON is the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
FIXTURES := fixtures
# A process per core; the tests of a file share what they set up.
PARALLEL := --numprocesses logical --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-slow test-lowest test-converters lint format fixtures bench check-readme dist lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade "pip>=24"

# One stamp per set of dependencies, redone when pyproject.toml or the lock changes. The lock keeps a
# release of a dependency from breaking what was tested; LOCK= goes without. What pip says is shown
# only where it fails.
LOCK ?= tests/constraints/lock.txt
define install
	@echo "Installing $(1) into $(VENV) ..."
	@$(BIN)/pip install $(if $(LOCK),--constraint $(LOCK)) --editable "$(1)" > $(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log; exit 1; }
	@mkdir -p $(STAMPS) && touch $@
endef

$(STAMPS)/plain: pyproject.toml $(LOCK) | $(BIN)/python
	$(call install,.)

$(STAMPS)/%: pyproject.toml $(LOCK) | $(BIN)/python
	$(call install,.[$*])

demo: $(STAMPS)/plain ## Scan the bundled backdoored model with its bundled clean images
	@$(BIN)/onnx-soda scan $(FIXTURES)/digits-backdoored.onnx --data $(FIXTURES)/digits-clean.h5 --reference $(FIXTURES)/digits-clean.onnx --exit-zero

test: $(STAMPS)/test ## Install what the tests need and run them
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: $(STAMPS)/test ## Run the slow tests too
	$(BIN)/python -m pytest $(PARALLEL)

# The lowest versions that pyproject.toml allows, in an environment of their own; without torch, so
# what needs it is left out.
LOWEST := tests/constraints/lowest.txt
WITHOUT_TORCH := --ignore=tests/repair --ignore=tests/converters --ignore=tests/cli/test_repair.py \
  --ignore=tests/report/test_repair_page.py --ignore=tests/test_places.py \
  --deselect=tests/cli/test_interrupts.py::test_an_interrupted_repair_leaves_nothing \
  --deselect=tests/plugins/test_plugins.py::test_the_remover_is_taken_by_its_name

build/venv-lowest/ready: pyproject.toml $(LOWEST)
	@rm -rf build/venv-lowest && $(PYTHON) -m venv build/venv-lowest
	@echo "Installing the lowest versions into build/venv-lowest ..."
	@build/venv-lowest/bin/pip install --quiet --constraint $(LOWEST) --editable ".[bom,html,parquet]" \
	  "pytest>=8" "pytest-xdist>=3.7" "hypothesis>=6.100" "jsonschema>=4.21" "junitparser>=3" \
	  "cyclonedx-python-lib[json-validation]"
	@touch $@

test-lowest: build/venv-lowest/ready ## Test the lowest versions of the dependencies
	build/venv-lowest/bin/python -m pytest -m "not slow" $(PARALLEL) $(WITHOUT_TORCH)

lock: $(STAMPS)/test $(STAMPS)/lint ## Write the installed versions into the lock: `make clean lock LOCK=` takes the newest
	{ echo "# Made by make lock: what the tests ran with."; $(BIN)/pip freeze --exclude-editable; } > tests/constraints/lock.txt

dist: ## Build wheel and sdist into dist/, and check them
	@$(PYTHON) -m venv build/venv-dist
	@build/venv-dist/bin/pip install --quiet build twine
	@rm -rf dist
	build/venv-dist/bin/python -m build --outdir dist .
	build/venv-dist/bin/twine check --strict dist/*

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

# The package as it is installed, with cli and converters inside: types are checked there.
ASSEMBLED := build/assembled

lint: $(STAMPS)/lint ## ruff format --check, ruff check, mypy --strict; needs no torch
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@rm -rf $(ASSEMBLED)
	@$(BIN)/pip install --quiet --no-deps --no-compile --target $(ASSEMBLED) .
	cd $(ASSEMBLED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p onnx_soda
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
	$(BIN)/python -m benchmarks.calibrate --judging
	$(BIN)/python -m benchmarks.repair
	$(BIN)/python -m benchmarks.batches
	$(BIN)/python -m benchmarks.references

docs: $(STAMPS)/docs ## Build the pages of docs/ into build/site
	$(BIN)/python -m typer onnx_soda._cli.app utils docs --name onnx-soda --title "Command line" --output docs/cli.md
	$(BIN)/mkdocs build

check-readme: $(STAMPS)/test ## Compare what README shows with what the program prints
	$(BIN)/python -m pytest -q tests/check_readme.py

clean: ## Remove .venv, caches and build folders
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
