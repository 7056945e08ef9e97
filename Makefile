# For GNU make 3.81 and later, on Linux and macOS. `make` without arguments prints the targets.

VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
SIDE_BY_SIDE := -n auto --dist loadscope --durations 10
PIP := $(BIN)/python -m pip install --no-deps --require-hashes
# Marks a complete installation. Its name has the checksum of both files: their modification times change with each checkout.
INSTALLED := $(VENV)/.installed-$(shell cat requirements.txt setup.py | cksum | tr ' ' -)

# Interpreters in order of preference; the first is the image's version. `make venv PYTHON=/path/to/python` names another.
PYTHONS := $(PYTHON) python3.12 python3.13 python3.14 python3.11 python3 python
FITS := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Otherwise Google's libraries request credentials from a metadata server, and wait for it outside Google Cloud.
export NO_GCE_CHECK := true

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-all test-fast lint contracts templates bench lock clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## Create .venv with pinned dependencies (others do it too)

demo: $(INSTALLED) ## Publish, deliver and audit here; results in demo/
	$(BIN)/python -m local.demo

# Twice as many processes as cores, since many tests wait. Go programs that tests speak to are built before any test's time limit.
test: $(INSTALLED) ## Run the tests except the slow ones (8 min on 2 cores)
	$(BIN)/python -m tests.support.go_tools
	$(PYTEST) $(SIDE_BY_SIDE) -m "not slow"

test-slow: $(INSTALLED) ## Run the slow tests: kills, random histories, the demo
	$(BIN)/python -m tests.support.go_tools
	$(PYTEST) $(SIDE_BY_SIDE) -m slow

test-all: $(INSTALLED) ## Run all tests (25 min on 2 cores)
	@failed=0; \
	$(MAKE) --no-print-directory test || failed=1; \
	$(MAKE) --no-print-directory test-slow || failed=1; \
	exit $$failed

test-fast: $(INSTALLED) ## Run the tests that take no longer than a moment
	$(PYTEST) -m "not integration and not slow"

lint: $(INSTALLED) ## Check style, formatting, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

contracts: $(INSTALLED) ## Check the contracts: valid, for BigQuery, compatible
	$(BIN)/python -m pipelines.check_contracts

templates: $(INSTALLED) ## Write the flex template's spec to build/templates/
	$(BIN)/python -m templates.render

bench: $(INSTALLED) ## Measure deliver's throughput against two baselines
	$(BIN)/python -m bench.deliver

lock: ## Pin setup.py's dependencies in requirements.txt; valid pins stay
	@test -x $(BIN)/uv || { echo "error: $(BIN)/uv does not exist. What to do: run 'make venv'" >&2; exit 1; }
	$(BIN)/uv pip compile setup.py --extra dev --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --output-file requirements.txt --quiet

clean: ## Remove all generated files: environment, demo, builds, caches
	rm -rf $(VENV) demo build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@python=; for candidate in $(PYTHONS); do \
		if "$$candidate" -c '$(FITS)' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "error: found no Python 3.11 to 3.14 with the module venv" >&2; \
		echo "(tried: $(PYTHONS))." >&2; \
		echo "What to do: install one (Debian: python3.12-venv), or name one:" >&2; \
		echo "make venv PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$python" --version): 1.2 GB, 1 to 3 minutes"; \
	"$$python" -m venv --clear $(VENV)

# Updates an existing environment in place: pip checks and builds all packages before it replaces the first one.
# - `--no-deps` and `pip check`: pip before 23.3 does not apply a pin to the same package with an extra.
# - google-apitools has no wheel. It is built with the locked setuptools; pip would use the newest.
# Runs again, whatever is marked, if the Python that .venv links to has gone.
$(INSTALLED): $(shell test -x $(BIN)/python || echo FORCE) | $(BIN)/python
	@rm -f $(VENV)/.installed*
	@for package in setuptools google-apitools; do \
		awk "/^[^ ]/ { wanted = /^$$package==/ } wanted" requirements.txt > $(VENV)/$$package.txt; \
	done
	$(PIP) -r $(VENV)/setuptools.txt
	$(PIP) --no-build-isolation -r $(VENV)/google-apitools.txt
	$(PIP) -r requirements.txt
	$(BIN)/python -m pip check
	$(BIN)/python -m pip install --no-deps --no-build-isolation --no-index -e .
	@touch $@

FORCE:
