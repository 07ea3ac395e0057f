# Two commands do everything: `make demo` runs the reference pipeline, `make test` passes the tests.
# Every target makes its own virtual environment in .venv when it is missing or older than what it is made from.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made
INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test check bench soak data postgresql tensorflow clean

help:  ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Ganglion needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

data: $(STAMP)
	@$(BIN)/ganglion doctor --data >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
    { $(INSTALL) dataset-fashion-mnist || { apt-get update && $(INSTALL) dataset-fashion-mnist; }; } >/dev/null 2>&1; } || \
	  echo "Fashion-MNIST is not on this machine. It is downloaded when it is needed; without a network, install Debian's" \
	    "package dataset-fashion-mnist or set GANGLION_DATA to a folder with its files."

demo: $(STAMP) data  ## Run the reference pipeline on Fashion-MNIST; run it again and the ingestion is skipped
	$(BIN)/ganglion run recipes/fashion_mnist.py

test: $(STAMP) data postgresql tensorflow  ## Run every test, two files at a time
	$(BIN)/pytest -n 2 --dist loadgroup

check: $(STAMP)  ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

postgresql:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    { $(INSTALL) postgresql || { apt-get update && $(INSTALL) postgresql; }; } >/dev/null 2>&1; } || \
	  echo "PostgreSQL is not on this machine; the tests that need it are skipped. Debian's package is called postgresql."

tensorflow: $(STAMP)  ## Make the environment of the TensorFlow tests (1.6 GB in ~/.cache); without it they are skipped
	@$(BIN)/python tests/cli/tensorflow_environment.py || true

bench: $(STAMP) data  ## Measure against peers and floors
	$(BIN)/python -m benchmarks.execution
	$(BIN)/python -m benchmarks.data

soak: $(STAMP) data  ## The full number of cases of the slow fault matrices
	$(BIN)/pytest -m soak

clean:  ## Remove the virtual environment, caches and the project folder with all runs
	rm -rf .venv .ganglion .mypy_cache .ruff_cache .pytest_cache .hypothesis
