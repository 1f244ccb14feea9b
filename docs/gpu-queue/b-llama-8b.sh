#!/usr/bin/env bash
# (b) Llama-3.1-8B's shape with random weights: passes, looks, prompts and memory; transformers in the same run.
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"
require "${PACKAGES[@]}"
shape=Llama-3.1-8B-Instruct lengths=2K,16K,64K,128K rows=1,8,16,32,64,4096 large=Qwen3-32B
if [ -n "$REHEARSAL" ]; then shape=tiny lengths=256,512 rows=1,8,64,512 large=tiny; fi
bench limits 280 --limit --shape "$shape" --lengths "$lengths" --rows "$rows" \
    --parts passes,retrieval,reading,generate,modules --out "$OUT/limit-llama-8b.json"
bench compiled 150 --limit --shape "$shape" --lengths "${lengths#*,}" --rows 1,512 --parts passes,compiled \
    --out "$OUT/limit-llama-8b-compiled.json"
bench plain 60 --limit --no-graphs --shape "$shape" --lengths "${lengths%%,*}" --rows 1,64 --parts passes \
    --out "$OUT/limit-llama-8b-no-graphs.json"
bench large 90 --limit --shape "$large" --lengths "${lengths%%,*}" --rows 1,64 --parts passes,retrieval \
    --out "$OUT/limit-qwen3-32b.json"
finish limit-llama-8b.json limit-llama-8b-compiled.json limit-llama-8b-no-graphs.json limit-qwen3-32b.json
