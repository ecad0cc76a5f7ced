# Every target sets up what it needs. PYTHON may name another Python 3.11.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STORE := demo
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt

.PHONY: setup demo test test-all check bench format clean

setup: $(VENV)/.ready

# torch is asked for by its exact version first: an open range resolves to a CUDA build of several GB
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[all,dev]'
	touch $@

# The main job on the built-in data set. Each line is a command of the README; a finished stage is found, not redone.
DEMO := --store $(STORE)
FIT := $(DEMO) --resume --seed 0
demo: setup
	$(BIN)/compress train --teacher u2net_big $(FIT)
	$(BIN)/compress train --teacher u2net_small $(FIT)
	$(BIN)/compress distill --teacher u2net_big --T 2 $(FIT)
	$(BIN)/compress distill --teacher u2net_big --T 7 $(FIT)
	$(BIN)/compress quantize --model u2net_big --dtype int8 $(DEMO)
	$(BIN)/benchmarks run --target cpu $(DEMO)
	$(BIN)/reports build $(DEMO)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.loop

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info
