# Every target sets up what it needs in .venv first.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
# One thread a worker: many threads on few cores wait for each other more than they compute.
# A file stays with one worker: what its tests share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --durations 10

.PHONY: help install demo test test-all lint data benchmarks clean

help:
	@echo "make demo        fine-tune, publish to a Hub on this machine, load back (minutes)"
	@echo "make test        the test suite (minutes);  make test-all  with the slow tests"
	@echo "make lint        ruff and mypy"
	@echo "make data        build the bundled data sets again (needs Debian's wordnet-base, and npm)"
	@echo "make benchmarks  the side-by-side measurements of benchmarks/ (hours; what is finished is kept)"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[dev]"
	touch $@

demo: install
	$(BIN)/hf-fsl demo

test: install
	$(PYTEST) -m "not slow"

test-all: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

data: install
	@test -f /usr/share/wordnet/data.noun || { echo "Install WordNet first: apt-get install wordnet-base"; exit 1; }
	$(BIN)/python recipes/data/build_supersense.py
	$(BIN)/python recipes/data/build_digits.py
	$(BIN)/python recipes/data/build_wordnet_nli.py
	$(BIN)/python recipes/data/build_emoji.py

benchmarks: install
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) sentence-transformers
	$(BIN)/python benchmarks/training_loop.py
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/episodes.py
	$(BIN)/python benchmarks/zero_shot_text.py
	$(BIN)/python benchmarks/zero_shot_image.py
	$(BIN)/python benchmarks/few_shot_text.py
	$(BIN)/python benchmarks/adapter_search.py

clean:
	rm -rf $(VENV) outputs .demo build dist
