# Every target sets itself up from a bare clone; second runs start at once.
# Only Python 3.11 to 3.13, make, a C compiler and a package index are needed.

SHELL := /bin/bash
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
# By content, not by time stamp: a fresh checkout has new times on old files.
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
SKLEARN := .venv-sklearn
SKLEARN_READY := $(SKLEARN)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
TEXT := .venv-text
HF := .venv-hf
comma := ,
ORT ?=
BENCHMARKS ?= $(sort $(wildcard benchmarks/*.py))
TESTS ?= tests
# Which of them: all but those that take long by their nature, such as real tunes.
MARKS ?= not slow
# Two more than there are CPUs: many tests wait for a time or for a process, which leaves the CPUs to others.
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 2)))
PYTEST := $(BIN)/python -m pytest
# Seconds that a test may take: one that hangs fails with the stacks of its threads, and the others go on.
TIMEOUT ?= 180
# The files that have such tests, so that the other three hundred are not imported just to find that they have none.
SERIAL = $(if $(findstring ::,$(TESTS)),,$(shell grep -rlE --include='*.py' '^@pytest\.mark\.serial' $(TESTS)))

PREPARED := $(VENV)/.prepared
SIMULATIONS := tests/planning/test_plan.py::test_one_replica_is_not_called_simulated \
	tests/tuner/together/test_simulation.py::test_one_model_is_the_single_queue
# Into an environment, requirements: uv, where it is installed, takes seconds for what takes pip minutes.
install = { command -v uv >/dev/null && uv pip install --quiet --python $(1)/bin/python $(2); } || \
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)

# Container images set it; the hundreds of processes that the tests start would each compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

SOAK ?= 60
FUZZ ?= 20
SMOKE ?= --all --engines
IMAGE ?=

.PHONY: help ready prepared demo test test-all test-torch test-gpu test-kubernetes test-sklearn test-text test-hf test-ray tuned smoke image lint format bench peers soak fuzz clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    tune, serve and load-test the bundled model; leaves a report in out/demo"
	@echo "make test    the tests, but for those marked slow (TESTS=tests/wire for some)"
	@echo "make test-all  all tests: real tunes and long loads, too"
	@echo "make test-torch  the tests that need PyTorch, which it installs; the other tests run without it"
	@echo "make test-gpu    the tests that need a CUDA device; without one, they say what is missing (ORT=onnxruntime-gpu for that of ONNX models)"
	@echo "make test-kubernetes  the tests of the files for Kubernetes, with Helm and the schemas of Kubernetes, which it installs"
	@echo "make test-sklearn  the tests that need scikit-learn or FastAPI, in an environment of their own (.venv-sklearn), which it makes"
	@echo "make test-text   the tests that need onnxruntime-extensions, in an environment of their own (.venv-text)"
	@echo "make test-hf     the tests that need transformers and optimum, in an environment of their own (.venv-hf)"
	@echo "make test-ray    the tests on a real Ray Serve, with Ray, which it installs; the other tests run without it"
	@echo "make tuned   every model of the tests is tuned for real, and its profile asked; a quarter of an hour"
	@echo "make smoke   build the package, install it into empty environments of Python 3.11 to 3.13, and serve with it"
	@echo "make image   follow deploy/Dockerfile in a fresh root, without Docker, and serve from it; its size and start time; needs root"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make format  let ruff format the code"
	@echo "make bench   every program in benchmarks/ (BENCHMARKS=benchmarks/matmul.py for one)"
	@echo "make peers   Tailcut beside mosec, LitServe, BentoML, Ray Serve, MLServer, FastAPI and pytriton; an hour"
	@echo "make soak    mixed traffic with clients that leave, and overload, for SOAK=60 seconds: slopes and limits"
	@echo "make fuzz    every parser of wire/ with atheris, FUZZ=20 seconds each"
	@echo "make clean   remove the virtual environment, caches and out/"

$(READY):
	@test -n "$(PYTHON)" || { echo "Tailcut needs Python 3.11, 3.12 or 3.13: install one, or say make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no venv module: on Debian, apt install python3-venv"; exit 1; }
	@echo "setting up $(VENV) (once; a minute or two)"
	@$(call install,$(VENV),-c constraints.txt -e '.[dev]')
	@rm -f $(VENV)/.ready-*
	@touch $@

ready: $(READY)

demo: $(READY)
	@$(BIN)/tailcut demo --keep out/demo

# What each process would compile, and what each worker would prepare of the tests the first time, is done once, one
# beside the other. The kernels of the simulations are compiled at their first call.
$(PREPARED): | $(READY)
	@{ $(PYTEST) $(TESTS) --collect-only -qq >/dev/null 2>&1 & \
		$(BIN)/python -c 'from tailcut.kernels import load, numbers, sockets'; $(PYTEST) $(SIMULATIONS) >/dev/null 2>&1; wait; }
	@touch $@

prepared: $(PREPARED)

# Those that measure time have the machine to themselves; a selection (TESTS=) may have none of either kind (status 5).
# What fails among others is run once more by itself when all have run, and has to pass then: both runs are printed.
test: $(PREPARED)
	@status=0; none=0; failed=; \
	for kind in '$(or $(SERIAL),$(TESTS)) -m "serial and ($(MARKS))"' \
		'$(TESTS) -m "not serial and ($(MARKS))" -n $(JOBS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder'; do \
		eval "$(PYTEST) --timeout $(TIMEOUT) $$kind"; code=$$?; \
		case $$code in 0) ;; 1) failed=1 ;; 5) none=$$((none + 1)) ;; *) status=$$code ;; esac; \
	done; \
	if [ $$none = 2 ]; then exit 5; fi; \
	if [ "$$failed" ]; then \
		echo "once more, alone:"; \
		$(PYTEST) --timeout $(TIMEOUT) $(TESTS) --last-failed --last-failed-no-failures none || status=$$?; \
	fi; \
	exit $$status

test-all:
	@THOROUGH=$(or $(THOROUGH),1) $(MAKE) --no-print-directory test MARKS='slow or not slow' TIMEOUT=1800

test-torch: $(READY)
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torch]'
	@$(PYTEST) tests/engines/pytorch tests/engines/cuda tests/converters/test_torch_program.py tests/triton/test_torch_models.py tests/tuner/test_converted.py -n $(JOBS) --maxprocesses 4 --dist loadfile

# ORT=onnxruntime-gpu takes the place of onnxruntime, whose files have the same names; `make clean` brings it back.
test-gpu: $(READY)
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torch]'
	@test -z "$(ORT)" || { $(BIN)/python -m pip uninstall --quiet --yes onnxruntime && $(BIN)/python -m pip install --quiet "$(ORT)"; }
	@$(PYTEST) tests/engines/cuda -m gpu -rs

test-kubernetes: $(READY)
	@$(BIN)/python -c 'import helm_python, kubernetes_validate' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[kubernetes]'
	@$(PYTEST) tests/kubernetes -rs

# In an environment of its own: scipy in the other one would make numba slower to load in every process of every test.
$(SKLEARN_READY):
	@test -x $(SKLEARN)/bin/python || $(PYTHON) -m venv $(SKLEARN)
	@echo "setting up $(SKLEARN) (once; a minute)"
	@$(call install,$(SKLEARN),-c constraints.txt -e '.[convert$(comma)onnxruntime]' lightgbm 'xgboost-cpu;sys_platform=="linux"' 'xgboost;sys_platform!="linux"' pytest fastapi)
	@rm -f $(SKLEARN)/.ready-*
	@touch $@

test-sklearn: $(SKLEARN_READY)
	@$(SKLEARN)/bin/python -m pytest tests/converters/test_trees.py tests/converters/test_comparison.py tests/converters/test_missing.py tests/converters/test_thresholds.py tests/test_guides.py::test_the_scikit_learn_model tests/test_guides.py::test_the_scikit_learn_model_with_columns_of_strings tests/test_guides.py::test_the_fastapi_application 'tests/test_examples.py::test_pipeline_example[string_columns.py]' -rs

test-text:
	@test -x $(TEXT)/bin/python || $(PYTHON) -m venv $(TEXT)
	@$(TEXT)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text]' pytest
	@$(TEXT)/bin/python -m pytest tests/engines/test_extensions.py -rs

# Without the pins: optimum-onnx wants older versions of some.
test-hf:
	@test -x $(HF)/bin/python || $(PYTHON) -m venv $(HF)
	@$(HF)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[torch]' optimum-onnx transformers pytest
	@$(HF)/bin/python -m pytest tests/converters/test_hugging_face.py -rs

test-ray: $(READY)
	@$(BIN)/python -c 'import ray.serve' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ray]'
	@$(PYTEST) tests/ray_serve -rs

tuned: $(READY)
	@TUNED=all $(BIN)/python -m pytest tests/tuner/test_tuned_cases.py

smoke: $(READY)
	@$(BIN)/python scripts/smoke.py $(SMOKE)

image: $(READY)
	@$(BIN)/python scripts/image.py $(IMAGE)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd benchmarks && ../$(BIN)/mypy --config-file mypy.ini *.py gpu/*.py regret/*.py peers/*.py
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	@set -e; for program in $(BENCHMARKS); do echo; echo "== $$program"; $(BIN)/python $$program; done

peers: $(READY)
	@$(BIN)/python benchmarks/peers/compare.py -o out/peers.md

soak: $(READY)
	@$(BIN)/python -m tests.soak --seconds $(SOAK)

fuzz: $(READY)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ)

clean:
	rm -rf $(VENV) $(SKLEARN) $(TEXT) $(HF) out .ruff_cache .mypy_cache .pytest_cache .hypothesis .import_linter_cache
