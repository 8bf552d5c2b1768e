# `make demo` and `make test` do everything on a machine that has Python 3.11 or newer, a C compiler and make:
# they create .venv, install the project into it and run. Another interpreter: make demo PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OUTPUT ?= unsplit-bench-out

# One thread: two on a busy machine run many times slower than one, and the tests' tensors are small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo install test slow lint format types check gate clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# --fresh: measured here and now, although the results of this suite come with the project.
demo: $(INSTALLED)  ## run the suite smoke-v2 and print its leaderboard
	$(BIN)/unsplit-bench run smoke-v2 --fresh --output $(OUTPUT)

install: $(INSTALLED)  ## create .venv and install the project and its tools

test: $(INSTALLED)  ## run the tests, without the slow ones
	$(PYTEST) -m "not slow"

slow: $(INSTALLED)  ## run the slow tests
	$(PYTEST) -m slow

lint: $(INSTALLED)  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)  ## bring the sources into format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)  ## check types
	$(BIN)/mypy

gate: $(INSTALLED)  ## measure smoke-v2 and compare it with its baseline
	$(BIN)/unsplit-bench check smoke-v2 --fresh --baseline results/baselines/smoke-v2.json --output $(OUTPUT)

check: lint types test slow gate  ## everything

clean:  ## remove .venv, build products and caches; results stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an installation that was interrupted is taken up again.
$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), but unsplit-bench needs Python 3.11 or newer;" \
	    "name another: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot create a virtual environment; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@
