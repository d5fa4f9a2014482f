# make demo    the main job on data that ships here: compress, fine-tune, export, prove, profile, bundle
# make test    lint, and types beside the whole fast suite; make unit: the suite alone
# make test-all    every export target, with all extras (3 GB) in an environment of its own
# make test-bundles    bundles compiled and run for real, whatever toolchains are here; others are named and skipped
# make test-ios    the Swift package built and tested on Linux; sets up Debian 13's Swift in the cache: root, 2.8 GB
# make bench NAME=onestep    a script of benchmarks/ (whole_line, onestep, latency, real, training, runtimes, trust, ...)
# make docs    the documentation with the reference of the Python API, out/docs/index.html; sets up no PyTorch
# Each target sets up what it needs in .venv; only Python 3.11 and make have to be there.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

TYPED := torch.onnx torch.export torch.utils.data onnx numpy click rich.table jinja2

.PHONY: demo test unit test-all test-bundles test-ios lint format types slow bench docs clean

demo: $(VENV)/demo.stamp
	@echo "LeNet-5 on the digits that ship here, keeping a quarter of its work: 15 seconds on two cores"
	env -u EDGECOMPRESS_DATA $(BIN)/edgecompress run lenet5 --keep 0.25 --of macs --target onnx --epochs 5 -o out/demo
	@echo "look:   open out/demo/report.html in a browser"
	@echo "yours:  . $(VENV)/bin/activate && edgecompress init my_model.py"

test: lint
	$(MAKE) -j 2 types unit

unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not bundles"

test-all: $(VENV)-all/all.stamp
	EDGECOMPRESS_ALL_TARGETS=1 $(VENV)-all/bin/python -m pytest tests/targets tests/exporting

test-bundles: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m bundles -rs

test-ios: $(VENV)/dev.stamp
	$(BIN)/python -m tests.platforms.swift
	$(BIN)/python -m pytest -rs tests/platforms/test_ios.py

slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow

NAME ?= whole_line
BENCH_VENV := $(if $(filter runtimes,$(NAME)),$(VENV)-all/all.stamp,$(VENV)/demo.stamp)

# a file called transformers.py would hide the package of that name from the scripts beside it
SCRIPT := $(if $(filter transformers,$(NAME)),of_transformers,$(NAME))

bench: $(BENCH_VENV)
	$(if $(filter runtimes,$(NAME)),$(VENV)-all/bin,$(BIN))/python benchmarks/$(SCRIPT).py

docs: $(VENV)-docs/docs.stamp
	$(VENV)-docs/bin/python docs/pages.py

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgecompress needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "first set-up of $(VENV): some minutes, up to 5 GB on disk, most of it PyTorch and the CUDA that comes with it"
	$(subst --quiet ,,$(INSTALL)) -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(INSTALL) -e '.[dev]'
	@printf 'import %s\n' $(TYPED) > $(VENV)/typed.py  # types of libraries are read once, here
	$(BIN)/mypy $(VENV)/typed.py
	@touch $@

DOCS := "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])"

$(VENV)-docs/docs.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$($(PYTHON) -c $(DOCS))
	@touch $@

$(VENV)-all/all.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m venv $(VENV)-all
	$(VENV)-all/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-all $(VENV)-docs out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
