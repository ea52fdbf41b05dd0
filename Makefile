# Every target makes the environment that it needs, inside the project, and leaves the machine's Python alone.

ifndef PYTHON
PYTHON := $(shell for python in python3.11 python3.10 python3; do \
	$$python -c "" 2>/dev/null && echo $$python && break; done)
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

ifeq ($(VERSION),3.10)
VENV ?= .venv-3.10
CONSTRAINTS := constraints-py310.txt
else
VENV ?= .venv
CONSTRAINTS := constraints.txt
endif

EXTRAS ?= server,dev
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRAS)
# pip 26.3 refuses merlin-dataloader, whose metadata names a git URL in an extra that nobody installs.
PIP := pip<26.3
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What benchmarks/quality.py measures against, apart from the product's own environment.
PEERS := .venv-peers
PEER_PACKAGES := lightgbm torch-rechub deepctr-torch fuxictr merlin-models pytorch-lightning optuna pandas pyarrow \
	scikit-learn
QUIET := $(shell [ -t 2 ] || echo --quiet)

.DELETE_ON_ERROR:
.PHONY: help setup demo test lint bench peers freeze clean python

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "PYTHON=python3.10 takes another Python, EXTRAS=server,dev other extras, VENV=.venv another folder."

setup: $(STAMP) ## Make the environment

demo: $(STAMP) ## Simulate a shop, train on it, serve it with Triton and rank a few requests
	@$(BIN)/steelyard demo

test: $(STAMP) ## Run the tests
	@$(BIN)/pytest

lint: $(STAMP) ## Check style, types and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP) ## Measure the latency of serving, in under two minutes
	@$(BIN)/python benchmarks/latency.py --quick

peers: $(PEERS)/.installed ## Make the environment of the rankers that benchmarks/quality.py measures against

freeze: $(STAMP) ## Write the constraints file anew from what is installed
	@$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip > $(VENV)/installed.txt
	@{ grep "^#" $(CONSTRAINTS); sed "s/+cpu$$//" $(VENV)/installed.txt; } > $(VENV)/$(CONSTRAINTS)
	@mv $(VENV)/$(CONSTRAINTS) $(CONSTRAINTS)
	@touch $(STAMP)

clean: ## Remove the environments and what the tools cached
	@rm -rf .venv .venv-3.10 $(PEERS) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml $(CONSTRAINTS) | python
	@rm -f $@
	@echo "Installing steelyard[$(EXTRAS)] into $(VENV), a few GB, with Python $(VERSION) and $(CONSTRAINTS)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "$(PIP)"
	@$(BIN)/python -m pip install $(QUIET) --no-compile --constraint $(CONSTRAINTS) --editable ".[$(EXTRAS)]"
	@touch $@

$(PEERS)/.installed: constraints-peers.txt | python
	@rm -f $@
	@[ "$(VERSION)" = 3.11 ] || { echo "PYTHON must be Python 3.11 for the peers; got $(VERSION): $(PYTHON)" >&2; exit 1; }
	@echo "Installing the peers into $(PEERS), about 2 GB, with Python $(VERSION) and constraints-peers.txt"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --upgrade "$(PIP)"
	@$(PEERS)/bin/python -m pip install $(QUIET) --no-compile --constraint constraints-peers.txt $(PEER_PACKAGES)
	@touch $@

python:
	@case "$(VERSION)" in \
	3.10 | 3.11) ;; \
	"") echo "PYTHON must be Python 3.11 or 3.10; got none that runs: $(PYTHON)" >&2; exit 1 ;; \
	*) echo "PYTHON must be Python 3.11 or 3.10; got $(VERSION): $(PYTHON)" >&2; exit 1 ;; \
	esac
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || \
	{ echo "$(PYTHON) must have venv; got none: on Debian or Ubuntu, apt install python$(VERSION)-venv" >&2; exit 1; }
