# make demo: install, train on digits, evaluate, draw; make test: install, lint, types, tests, doctests;
# make bench: what a training step costs, about 25 minutes; make figures: the paper's figures, about four hours on
# two cores, resumable; make figures SAMPLES=1e6: the same from fewer samples, about 90 minutes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One thread a worker: torch's threads of two workers would fight over the same cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal $(PYTEST_OPTIONS)

.PHONY: demo test lint bench figures clean
.DELETE_ON_ERROR:

$(BIN)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

demo: $(BIN)/installed
	@[ -d runs/demo ] || $(BIN)/pyro-aevb train --data digits --latent_dim 2 --hidden 200 --samples 1e6 --out runs/demo
	@echo; $(BIN)/pyro-aevb evaluate runs/demo --num_samples 1000
	@echo; $(BIN)/pyro-aevb plot runs/demo
	@echo; echo "Look at the pictures above. Once more from the beginning: rm -r runs/demo; make demo"

test: $(BIN)/installed lint
	$(PYTEST)

bench: $(BIN)/installed
	$(BIN)/python -m pip install -q -e '.[bench]'
	$(BIN)/python experiments/benchmark.py

figures: $(BIN)/installed
	@for each in figure2 wake_sleep figure3 figure4 figure5 appendix_f beyond literature; do \
		$(BIN)/python experiments/$$each.py $(if $(SAMPLES),--samples=$(SAMPLES)) || exit 1; done
	@$(BIN)/python experiments/summary.py

lint: $(BIN)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
