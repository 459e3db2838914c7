# Two commands do everything on a fresh machine: make demo, make test.
# pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf) choose where packages come from.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo reference comparison test test-cluster check coverage gpu-check clean

help:
	@echo "make demo      train 23 small models, fit a scaling law, write a report (minutes, on a CPU)"
	@echo "make reference train our reference sweep and report on it (more than an hour, on a CPU)"
	@echo "make comparison  train AdamW, Muon and experts on one grid and compare (an hour, on a CPU)"
	@echo "make test      every test that needs no GPU; five faults on a SLURM that it brings up (as root)"
	@echo "make test-cluster  the other faults, the demo and a soak on that SLURM, and other long tests; half an hour"
	@echo "make check     style, import rules"
	@echo "make gpu-check every test and benchmark that needs a GPU, into outputs/gpu-check.json"
	@echo "make coverage  make test, with line coverage"
	@echo "make clean     remove .venv (never outputs/)"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "isoflop needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.12 demo"; exit 2; }
	@echo "Setting up .venv with pinned packages (once; 2 to 5 minutes, torch is the largest) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
	@echo "Set up: $$($(BIN)/python --version), torch $$($(BIN)/python -c 'import torch; print(torch.__version__)')"

demo: $(READY)
	@echo "The demo: 23 models, 5 budgets; five to eight minutes on two cores. Ctrl-C stops, make demo goes on."
	@$(BIN)/isoflop demo

# The held-out budget has four sizes; trunks are a sweep of their own.
APART := grid=reference
TRUNKS := grid=reference sweep=reference-trunks grid.design=tapered grid.trunks=true grid.probe=false
reference: $(READY)
	@echo "The reference sweep: more than an hour on two cores. Ctrl-C stops, make reference goes on."
	@$(BIN)/isoflop launch $(APART)
	@$(BIN)/isoflop launch $(APART) grid.budgets=[1.28e13] grid.window=2 grid.probe=false
	@$(BIN)/isoflop launch $(TRUNKS)
	@$(BIN)/isoflop launch $(APART) grid.seeds=[1,2] grid.probe=false
	@$(BIN)/isoflop launch $(TRUNKS) grid.seeds=[1,2]
	@for sweep in reference reference-trunks; do \
	  for verb in collect fit report; do $(BIN)/isoflop $$verb sweep=$$sweep || exit; done; done

# One grid, one corpus, one batch rule, the same probes; experts of a token are as wide as the dense MLP.
comparison: $(READY)
	@echo "Three sweeps of 41 cells: half an hour to an hour on two cores. Ctrl-C stops, make comparison goes on."
	@$(BIN)/isoflop launch grid=demo grid.probe=true sweep=adamw
	@$(BIN)/isoflop launch grid=demo grid.probe=true sweep=muon recipe.optimizer=muon
	@$(BIN)/isoflop launch grid=demo grid.probe=true sweep=moe model.n_expert=8
	@for sweep in adamw muon moe; do for verb in collect fit; do $(BIN)/isoflop $$verb sweep=$$sweep || exit; done; done
	@for other in muon moe; do \
	  $(BIN)/isoflop forecast fits=[outputs/$$other/fits.json,outputs/adamw/fits.json] forecast.targets=[1.92e12,1.92e13] || exit; done
	@$(BIN)/python tests/bench/comparison.py outputs/adamw/records.parquet outputs/muon/records.parquet outputs/moe/records.parquet

test: $(READY) check
	@echo "Tests: about ten minutes on two cores."
	@export OMP_NUM_THREADS=1; said=$$(mktemp); \
	$(BIN)/python -m pytest tests/cluster -m "not slow" >$$said 2>&1 & faults=$$!; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not gpu and not cluster and not slow"; rest=$$?; \
	echo "Five faults on a SLURM, run beside them:"; wait $$faults; ended=$$?; cat $$said; rm $$said; \
	exit $$((rest || ended))

test-cluster: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal -m slow --durations=10

check: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/lint-imports

gpu-check: $(READY)
	@$(BIN)/python tests/gpu/gpu_check.py

coverage: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term \
	  -m "not gpu and not cluster and not slow"

clean:
	rm -rf .venv
