# Every target sets up what it needs in .venv first.
CONSTRAINTS ?= constraints.txt
VENV := .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif
# TESTS="tests/data -k labels" runs a part of the suite.
TESTS ?=
# A file stays with one worker: what its tests share is made once.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --durations 10
# What needs neither processes of its own nor a server: the tests for systems other than Linux.
UNIT := tests/config tests/core tests/data tests/few_shot/episodes tests/few_shot/heads tests/metrics tests/models \
	tests/zero_shot tests/training/test_losses.py tests/training/test_metric_losses.py tests/test_auto.py \
	tests/test_packaging.py
# One thread a worker: many threads on few cores wait for each other more than they compute.
test test-slow test-all test-unit: export OMP_NUM_THREADS = 1

.PHONY: help install demo test test-slow test-all test-unit test-lowest lint pre-commit data benchmarks clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.installed ## .venv with everything

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[dev]"
	touch $@

demo: install ## fine-tune, publish to a Hub on this machine, load back (minutes)
	$(BIN)/hf-fsl demo

test: install ## the tests but the slow ones (minutes); TESTS="tests/data -k labels" for a part
	$(PYTEST) -m "not slow" $(TESTS)

test-slow: install ## the slow tests
	$(PYTEST) -m slow $(TESTS)

test-all: install ## all tests
	$(PYTEST) $(TESTS)

test-unit: install ## the tests without launches and servers, as on macOS and Windows
	$(PYTEST) -m "not slow" $(UNIT)

test-lowest: ## the tests with the lowest versions that are allowed, in .venv-lowest (Python 3.11)
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

lint: install ## ruff, mypy and the floors that imports go down
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

pre-commit: install ## check each commit from now on, as .pre-commit-config.yaml says
	$(BIN)/pre-commit install

data: install ## build the bundled data sets again (needs Debian's wordnet-base, and npm)
	@test -f /usr/share/wordnet/data.noun || { echo "Install WordNet first: apt-get install wordnet-base"; exit 1; }
	$(BIN)/python recipes/data/build_supersense.py
	$(BIN)/python recipes/data/build_digits.py
	$(BIN)/python recipes/data/build_wordnet_nli.py
	$(BIN)/python recipes/data/build_emoji.py

benchmarks: install ## the side-by-side measurements of benchmarks/ (hours; what is finished is kept)
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) sentence-transformers
	$(BIN)/python benchmarks/training_loop.py
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/episodes.py
	$(BIN)/python benchmarks/zero_shot_text.py
	$(BIN)/python benchmarks/zero_shot_image.py
	$(BIN)/python benchmarks/few_shot_text.py
	$(BIN)/python benchmarks/adapter_search.py

clean: ## remove .venv and what runs left here
	rm -rf .venv .venv-lowest outputs .demo build dist
