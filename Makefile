# The only commands anyone needs.  Everything is installed into .venv (or .venv-NAME); nothing outside
# this folder is touched.

PYTHON ?= python3
# exact versions to install, constraints/oldest.txt or constraints/newest.txt; without it pip chooses
CONSTRAINTS ?=
# address of the repository, https://HOST/OWNER/NAME, which the page of a published package links to
REPOSITORY ?=
# processes that run the tests; each takes about 2 GB
JOBS ?= 2

ifneq ($(CONSTRAINTS),$(wildcard $(CONSTRAINTS)))
$(error CONSTRAINTS=$(CONSTRAINTS) is not there: give a file of constraints/)
endif
# an environment for each choice
VENV := .venv$(if $(CONSTRAINTS),-$(basename $(notdir $(CONSTRAINTS))))
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# who has run out of tests takes over half of another's, so that all end together; a thread each
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=worksteal

.PHONY: demo test short wheel lint type format bench clean

demo: $(VENV)/demo.done  ## photographs to a pre-trained encoder, in minutes
	$(BIN)/turbomim demo

test: lint type  ## everything that decides whether a change is good
	$(PYTEST) tests --ignore=tests/interpret $(if $(CONSTRAINTS),--ignore=tests/train/trackers/test_trackio.py)
	TRITON_INTERPRET=1 $(PYTEST) tests/interpret

# what differs between versions of torch, Triton, DALI and transformers
SHORT := tests/benchmarks/test_static.py tests/benchmarks/test_step.py \
	tests/kernels/test_attention.py tests/kernels/test_ideal.py tests/kernels/test_linear.py \
	tests/kernels/test_masked_patches.py tests/kernels/test_masking.py \
	tests/pipeline/decoding/test_without_dali.py tests/pipeline/test_loader.py \
	tests/train/commands/test_cli.py tests/train/commands/test_doctor.py tests/train/demo/test_demo.py \
	tests/train/export/test_hf.py \
	tests/train/loop/test_bfloat16.py tests/train/loop/test_golden_losses.py tests/train/loop/test_run.py \
	tests/train/machine/test_cpu_products.py tests/train/models/test_initial.py tests/train/optim

short: $(VENV)/dev.done  ## kernels, losses, step, loader and commands, in minutes: for other versions
	$(PYTEST) $(SHORT)
	TRITON_INTERPRET=1 $(PYTEST) tests/interpret

wheel: $(VENV)/dev.done  ## builds dist/ twice, compares, and tries the wheel in an empty environment and folder
	$(BIN)/python tests/packaging/build.py dist $(REPOSITORY)
	$(BIN)/python tests/packaging/try_wheel.py dist $(CONSTRAINTS)

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/dev.done
	$(BIN)/mypy

format: $(VENV)/dev.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.done  ## loader, kernels, step and training, in under ten minutes on a GPU
	$(BIN)/python -m turbomim.benchmarks.all

clean:  ## all but the shards and runs of yours
	rm -rf .venv .venv-* build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# trackio limits huggingface_hub and Pillow: an environment of constraints goes without
$(VENV)/dev.done: MORE := $(if $(CONSTRAINTS),,,trackio)

$(VENV)/%.done: setup.cfg pyproject.toml $(CONSTRAINTS)
	@test -L src/turbomim/train || { echo "src/turbomim/train is not a symbolic link: clone again with 'git clone -c core.symlinks=true'"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: run make with PYTHON=/path/to/a/newer/python3"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[$*,cuda13$(MORE)]' $(addprefix --constraint ,$(CONSTRAINTS))
	@touch $@
