# Every target sets itself up: the first one run creates .venv in this folder, later ones find it there.
# PYTHON=python3.12 make setup    another interpreter (3.11 or later)
# Which build of torch (CPU, CUDA) is pip's choice: see CONTRIBUTING.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.trimtab-setup

# Nothing here needs a download after set-up: the lab model and the sentence embedder come with the packages.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# An activated environment of the caller's, or a PYTHONPATH, must not leak into this one.
unexport VIRTUAL_ENV
unexport PYTHONPATH
unexport PYTHONHOME

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-hallucination test check bench science clean

help:
	@echo "make setup     create .venv with exact versions (constraints.txt)"
	@echo "make demo      the whole loop on the embedded lab; report in runs/demo"
	@echo "make demo-hallucination   the lab model learns to make less up; report in runs/demo-hallucination"
	@echo "make test      all tests"
	@echo "make check     formatting, lint, mypy, pyright"
	@echo "make bench     speed and memory as ratios; bench/results.json"
	@echo "make science   the experiments behind the claims; science/results"
	@echo "make clean     remove caches and build outputs (not .venv, not runs)"

setup: $(STAMP)

# torch goes first and through pip, which honours a configured index or wheel folder; uv then keeps that build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Trimtab needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group dev --editable .
	@touch $@

demo: $(STAMP)
	$(BIN)/trimtab demo --output runs/demo

demo-hallucination: $(STAMP)
	$(BIN)/trimtab reward demo --output runs/demo-hallucination

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python -m bench

science: $(STAMP)
	$(BIN)/python -m science

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests bench science recipes -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
