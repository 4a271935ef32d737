# make demo: install, train on digits, evaluate, draw, make a page to explore; make test: install, lint, types, tests, doctests;
# make docs: the documentation, all code in it executed, without a network once all is installed;
# make bench: what a training step costs, about 25 minutes; make figures: the paper's figures from as many samples as
# take some 85 minutes on two cores, resumable; make figures FULL=1: from as many as the figures here, four to five hours.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One thread a worker: torch's threads of two workers would fight over the same cores.
# Of a test with many cases two are run, and no slow one; make test SAMPLE= runs all, as CI does, in under 20 minutes.
SAMPLE ?= --sample=2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal $(SAMPLE) $(PYTEST_OPTIONS)

# Samples for 'make figures'; curves that are there with more stay. Where none are given the script's own are few.
# make figures RESULTS=mine keeps all that you trained in a folder of its own, with a page of its own.
RESULTS ?= experiments
BUDGET = figure2:3e6 choices:1e5 wake_sleep:2e5 figure3:1e6 figure4 figure5 appendix_f beyond:1e6 literature:1e5
script = $(firstword $(subst :, ,$(1)))
samples = $(if $(FULL),,$(addprefix --samples=,$(word 2,$(subst :, ,$(1)))))

.PHONY: demo test lint docs docs-installed bench figures clean
.DELETE_ON_ERROR:

$(BIN)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

demo: $(BIN)/installed
	@[ -d runs/demo ] || $(BIN)/pyro-aevb train --data digits --latent_dim 2 --hidden 200 --samples 1e6 --out runs/demo
	@echo; $(BIN)/pyro-aevb evaluate runs/demo --num_samples 1000
	@echo; $(BIN)/pyro-aevb plot runs/demo
	@echo; $(BIN)/pyro-aevb explore runs/demo --out runs/demo/explore.html
	@echo; echo "Look at the pictures above, and open runs/demo/explore.html in a browser. Once more from the beginning: rm -r runs/demo; make demo"

$(BIN)/docs-installed: $(BIN)/installed
	$(BIN)/python -m pip install -q -e '.[dev,docs]'
	@touch $@

docs-installed: $(BIN)/docs-installed

# Pages are executed side by side, two at a time; what was executed is kept until the page changes.
docs: $(BIN)/docs-installed
	$(BIN)/sphinx-build -W --keep-going -n -q -j 2 -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

test: $(BIN)/installed lint
	$(PYTEST)

bench: $(BIN)/installed
	$(BIN)/python -m pip install -q -e '.[bench]'
	$(BIN)/python experiments/benchmark.py

figures: $(BIN)/installed
	@$(foreach each,$(BUDGET),$(BIN)/python experiments/$(call script,$(each)).py $(call samples,$(each)) --results=$(RESULTS) &&) \
		$(BIN)/python experiments/summary.py --results=$(RESULTS)

lint: $(BIN)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) docs/_build docs/.jupyter_cache docs/reference/api docs/reference/command_line.rst .mypy_cache .pytest_cache .ruff_cache *.egg-info
