# make train: the whole way on a fresh machine: environment, model, fine-tuning, LPO, report.
# make test:  environment, lint, types, all tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXPERIMENT ?= smollm2_arithmetic
SEED ?= 0
STAMP := $(VENV)/.installed

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: train test lint types check setup clean

train: setup
	$(BIN)/evolpo model path model=smollm2
	$(BIN)/evolpo sft experiment=$(EXPERIMENT) seed=$(SEED) | tee $(VENV)/.sft
	$(BIN)/evolpo train experiment=$(EXPERIMENT) seed=$(SEED) model.path="$$(tail -n 1 $(VENV)/.sft)"

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

setup: $(STAMP)

$(STAMP): requirements/cpu.lock pyproject.toml scripts/setup.sh
	PYTHON="$(PYTHON)" bash scripts/setup.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
