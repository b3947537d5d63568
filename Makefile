# make train: the whole way on a fresh machine: environment, model, fine-tuning, LPO, report.
# make test:  environment, lint, types, all tests.
# make setup-gpu: the environment for a machine with GPUs, before the other two.
# make lock:  the lock files anew from pyproject.toml; RAISE="transformers vllm==0.33.0" raises what it names.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXPERIMENT ?= smollm2_arithmetic
SEED ?= 0
# Which lock the environment is made from: cpu or gpu.
STAMP := $(VENV)/.installed
KIND := $(or $(shell cat $(STAMP) 2>/dev/null),cpu)

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: train test lint types setup setup-gpu lock clean

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

$(STAMP): requirements/$(KIND).lock pyproject.toml scripts/setup.sh
	PYTHON="$(PYTHON)" bash scripts/setup.sh $(VENV) $(KIND)

setup-gpu:
	PYTHON="$(PYTHON)" bash scripts/setup.sh $(VENV) gpu

lock:
	PYTHON="$(PYTHON)" bash scripts/lock.sh $(RAISE)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
