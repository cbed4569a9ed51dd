#!/usr/bin/env bash
# Compact memories on real models, beside the full text, retrieved text and pruned caches of the same size.
#
#     make models                                 # once: Qwen2.5-Coder-0.5B and 1.5B
#     make results-real DATA=FOLDER               # hours on a CPU; an interrupted run is resumed
#
# Numbers are float32 unless MEMKIT_DTYPE says otherwise: bfloat16 is several times faster on CPUs that compute
# with it, and slower on others.
set -euo pipefail
data=${1:?give the folder of the data sets, as in: make results-real DATA=FOLDER}
bin=${BIN:-.venv/bin}
small=${QWEN05:-build/models/qwen2.5-coder-0.5b-instruct-q4.gguf}
large=${QWEN15:-build/models/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf}
mkdir -p results

# evaluate NAME MODEL SOURCE RATIOS BASELINES [ARGUMENT...]: one file of results
evaluate() {
    local name=$1 model=$2 source=$3 ratios=$4 baselines=$5
    shift 5
    [ -s "results/27-$name.json" ] && return
    "$bin/memkit" eval "$data/$source" --model "$model" --compilers compact --ratio "$ratios" \
        --baselines "$baselines" --embedder hybrid --ttft 0 --json "results/27-$name.json" "$@"
}

evaluate qwen05-squad "$small" squad_dev_100.jsonl 4,8,16 full,none,rag,kvpress --limit 40
evaluate qwen15-squad "$large" squad_dev_100.jsonl 4,8,16 full,none,rag,kvpress --limit 20
evaluate smollm2-squad smollm2 squad_dev_100.jsonl 4,8 full,none,rag,kvpress --limit 20
for set in hotpot twowiki musique; do
    evaluate "qwen15-$set" "$large" "${set}_100.jsonl" 4,8 full,none,rag --limit 20 --max-tokens 1500
done
evaluate qwen05-twowiki "$small" twowiki_100.jsonl 4 full,none,rag --limit 20 --max-tokens 1500
evaluate qwen15-squality "$large" squality_dev_25.jsonl 4 full,none,rag --limit 5 --questions 2
evaluate qwen15-squad-long "$large" squad_long_30.jsonl 4 full,none,rag --limit 10
for size in 05 15; do
    model=$small
    [ "$size" = 05 ] || model=$large
    evaluate "qwen$size-longmemeval" "$model" longmemeval_evidence.jsonl 4 full,none,rag --limit 20
done

# The gate: questions that a memory answers, that only sound like it, and that have nothing to do with any.
if [ ! -s results/29-qwen05-router.json ]; then
    head -24 "$data/unanswerable_200.jsonl" > build/unanswerable.jsonl
    head -24 "$data/alpaca_eval_805.jsonl" > build/general.jsonl
    "$bin/memkit" eval "$data/squad_dev_100.jsonl" --study router --compilers compact --model "$small" \
        --embedder hybrid --unanswerable build/unanswerable.jsonl --unrelated build/general.jsonl \
        --limit 10 --questions 4 --home build/router --json results/29-qwen05-router.json
fi

# What the form that SGLang serves costs, and fewer bits.
evaluate qwen05-cap2 "$small" squad_dev_100.jsonl 4 full,none --limit 20 --option cap=2.0
evaluate qwen05-capped "$small" squad_dev_100.jsonl 4 full,none --limit 20 --option preset=capped
evaluate qwen05-capped-unbiased "$small" squad_dev_100.jsonl 4 full,none --limit 20 \
    --option preset=capped --option bias=false
evaluate qwen05-int8 "$small" squad_dev_100.jsonl 4 full,none --limit 20 --option stored=int8
evaluate qwen05-int4 "$small" squad_dev_100.jsonl 4 full,none --limit 20 --option stored=int4

# What a compilation, a first token and an answer cost.
for size in 05 15; do
    model=$small
    [ "$size" = 05 ] || model=$large
    file=results/28-qwen$size-compact.json
    [ -s "$file" ] || "$bin/memkit" bench compact --model "$model" --tokens 300,2000,8000,20000 --json "$file"
done
