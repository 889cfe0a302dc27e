# Everything a fresh machine needs: `make demo` and `make test`. Variables can be set on the command line.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
GAME   ?= Pong
SEED   ?= 0
MINUTES ?= 60
AGENT  ?= iris
# Each agent has its schedule: atari100k.yaml, atari100k-delta-iris.yaml, atari100k-twm.yaml.
PIPELINE ?= atari100k$(if $(filter-out iris,$(AGENT)),-$(AGENT))
DEVICE ?= auto

IRIS = $(VENV)/bin/iris
RUN  = $(VENV)/bin/python -m

# As the iris command does: threads that wait spin for a moment only.
export GOMP_SPINCOUNT ?= 10000

.PHONY: help demo test check bench soak atari100k ablations clean

help: ## What can be made
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(RUN) pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(VENV)/installed ## Every stage on real Pong, from nothing to a video (8 minutes on 2 cores)
	$(IRIS) run pipelines/demo.yaml --device $(DEVICE)

test: $(VENV)/installed ## All tests: fast, parity and pipeline (CUDA ones where there is a GPU)
	$(RUN) pytest

check: $(VENV)/installed ## What every commit must pass: format, lint, types, fast tests
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) pytest -m "not pipeline"

bench: $(VENV)/installed ## Throughput of every stage on this machine, saved in tests/perf/results
	$(IRIS) bench --device $(DEVICE) --out tests/perf/results

soak: $(VENV)/installed ## An hour of kills and faults: make soak MINUTES=600 SEED=1, saved in tests/faults/results
	$(RUN) pytest -m soak tests/faults
	$(VENV)/bin/python tests/faults/soak.py --seed $(SEED) --minutes $(MINUTES)

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
	rm -rf $(VENV) *.egg-info
