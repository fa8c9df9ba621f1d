# make test   all checks and tests            make demo   a first tour
# make lint   ruff and mypy only              make setup  the environment only
# make perf   every performance claim, measured beside its peer (about ten minutes)
# Each builds .venv first where it is missing or out of date.

VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

# The first interpreter that really runs and is new enough; `make PYTHON=/path/to/python setup` chooses another one.
PYTHON ?= $(shell for name in python3.11 python3; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v $$name; break; fi; done)

.PHONY: setup lint test demo perf clean
.NOTPARALLEL:

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
		if [ -z "$(PYTHON)" ]; then \
			echo "earwitness needs Python 3.11 or newer, and there is none on the PATH." >&2; \
			echo "Install it, or say where it is: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
			exit 1; \
		fi; \
		echo "Building $(VENV) with $(PYTHON)"; \
		"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
			echo "$(PYTHON) cannot make virtual environments. On Debian, install python3-venv." >&2; exit 1; }; \
	fi
	@echo "Installing earwitness and its dependencies (about 6 GB once; minutes)"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# pytest comes last: its closing line closes the output.
test: lint
	$(BIN)/python -m pytest

demo: $(STAMP)
	$(BIN)/earwitness demo

perf: $(STAMP)
	$(BIN)/python benchmarks/perf/run.py

clean:
	rm -rf $(VENV) build *.egg-info
