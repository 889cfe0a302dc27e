# Everything a fresh machine needs: `make demo` and `make test`. Variables can be set on the command line.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
# The oldest with which the golden tests of seeded draws pass; any build of it will do.
TORCH_LOWEST ?= torch==2.11.0
LOWEST ?= .venv-lowest
VENV   ?= .venv
GAME   ?= Pong
SEED   ?= 0
MINUTES ?= 60
AGENT  ?= iris
# Each agent has its schedule: atari100k.yaml, atari100k-delta-iris.yaml, atari100k-twm.yaml.
PIPELINE ?= atari100k$(if $(filter-out iris,$(AGENT)),-$(AGENT))
DEVICE ?= auto
# Tests at a time, each on one thread.
JOBS   ?= 2

IRIS = $(VENV)/bin/iris
RUN  = $(VENV)/bin/python -m

# As the iris command does: threads that wait spin for a moment only.
export GOMP_SPINCOUNT ?= 10000

.PHONY: help demo test check soak test-lowest bench atari100k ablations clean

help: ## What can be made
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(RUN) pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(VENV)/installed ## Every stage on real Pong, from nothing to a video (3 minutes on 2 idle cores)
	$(IRIS) run pipelines/demo.yaml --device $(DEVICE)

test: $(VENV)/installed ## All tests: fast, parity and pipeline (CUDA ones where there is a GPU)
	OMP_NUM_THREADS=1 $(RUN) pytest -n $(JOBS) --dist worksteal

check: $(VENV)/installed ## What every commit must pass: format, lint, types, fast tests
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	OMP_NUM_THREADS=1 $(RUN) pytest -n $(JOBS) --dist worksteal -m "not pipeline"

soak: $(VENV)/installed ## Hours of kills, faults and foreign bytes: make soak MINUTES=480 SEED=1 (coverage-guided where atheris is installed)
	$(RUN) pytest -m soak --timeout 0
	$(RUN) pytest -m "not soak" -k properties --timeout 0 --hypothesis-profile=soak
	$(VENV)/bin/python tests/faults/soak.py --seed $(SEED) --minutes $(MINUTES)
	$(VENV)/bin/python tests/fuzz/soak.py --minutes $(MINUTES)

test-lowest: $(LOWEST)/installed ## The fast tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not pipeline"

$(LOWEST)/installed: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) tests/lowest.py dev --without torch > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/lowest.txt "$(TORCH_LOWEST)" -e ".[dev]"
	@touch $@

bench: $(VENV)/installed ## Throughput of every stage on this machine, saved in tests/perf/results
	$(IRIS) bench --device $(DEVICE) --out tests/perf/results

atari100k: $(VENV)/installed ## The full loop: make atari100k GAME=Qbert SEED=0 (PIPELINE=atari100k-staged: a variant)
	$(IRIS) run pipelines/$(PIPELINE).yaml --agent $(AGENT) --game $(GAME) --seed $(SEED) --device $(DEVICE)

# Each in a run and with a dataset of its own, so that none draws from what another played.
ALONE = --set run=runs/twm-$(1)-$(SEED) --set dataset=data/twm-$(1)-$(SEED).zarr

ablations: $(VENV)/installed ## TWM without rewards in its input, and without balanced sampling, beside it as it is
	$(IRIS) run pipelines/doors-twm.yaml --seed $(SEED) $(call ALONE,doors)
	$(IRIS) run pipelines/doors-twm.yaml --seed $(SEED) $(call ALONE,doors-no-rewards) --set dynamics.reads_rewards=false
	$(IRIS) curve runs/twm-doors-$(SEED) runs/twm-doors-no-rewards-$(SEED) --random 0 --out runs/twm-rewards.png
	$(IRIS) run pipelines/catch-twm.yaml --seed $(SEED) $(call ALONE,catch)
	$(IRIS) run pipelines/catch-twm.yaml --seed $(SEED) $(call ALONE,catch-uniform) --set dynamics.sampling_temperature=none
	$(IRIS) curve runs/twm-catch-$(SEED) runs/twm-catch-uniform-$(SEED) --random -0.77 --out runs/twm-sampling.png

clean: ## Remove the environment (datasets and runs stay)
	rm -rf $(VENV) $(LOWEST) *.egg-info
