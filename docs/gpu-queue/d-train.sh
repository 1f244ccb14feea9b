#!/usr/bin/env bash
# (d) The built-in models trained on, from the shipped weights. CORPUS=…: as for `spec-engine train --corpus`.
#     DATA=…: a folder of texts (GovReport) for the quality afterwards. PARTS="target heads": what is trained.
# Called again with the same RUN folder it goes on from where it stopped; weights are copied to OUT.
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"
require "${PACKAGES[@]}"
# Compiling takes minutes that a short run does not win back: COMPILE=1 does it all the same.
if [ -z "${COMPILE:-}" ]; then export TORCHDYNAMO_DISABLE=1; fi
run=${RUN:-runs/gpu} parts=${PARTS:-target} minutes=${MINUTES:-6.5}
stages=4096:16:20,8192:16:60,16384:8:80 head_stages=256:32:4,1024:16:16,4096:4:16 eagle_stages=256:8:4,1024:8:12,2048:8:16
draft_stages=1024:32:10,2048:16:30
heldout=(--lengths 1024,4096,8192,15000 --texts 5 --questions 4)
if [ -n "$REHEARSAL" ]; then
    stages=256:2:0.001,512:1:0.001 head_stages=256:2:0.001 eagle_stages=256:2:0.001 draft_stages=128:2:0.001 minutes=0.1
    heldout=(--lengths 256 --texts 1 --questions 1)
fi
CORPUS=${CORPUS:?Name the corpus: CORPUS=FILE}
seconds=$("$PYTHON" -c "print(int(60 * $minutes) + 60)")
if [ ! -d "$run/tokenizer" ]; then mkdir -p "$run" && cp -r presets/builtin/target "$run/tokenizer"; fi
train() { part "$1" "$seconds" "$PYTHON" -m spec_engine train "$2" --corpus "$CORPUS" --out "$run" "${@:3}"; }
if [[ $parts == *target* ]]; then
    train target target --init presets/builtin/target --minutes "$minutes" --stages "$stages"
    if [ -f "$run/target/model.safetensors" ]; then cp "$run/target/model.safetensors" "$OUT/builtin-target.safetensors"; fi
    part quality 150 "$PYTHON" -m spec_engine bench --quality --model "$(realpath -m "$run/target")" \
        ${DATA:+--data "$DATA"} "${heldout[@]}" --out "$OUT/quality-builtin-gpu.json"
fi
if [[ $parts == *draft* ]]; then
    train draft draft --init presets/builtin/draft --minutes "$minutes" --stages "$draft_stages"
    if [ -f "$run/draft/model.safetensors" ]; then cp "$run/draft/model.safetensors" "$OUT/builtin-draft.safetensors"; fi
fi
if [[ $parts == *heads* ]]; then
    minutes=$("$PYTHON" -c "print($minutes / 2)") seconds=$((seconds / 2 + 30))
    train longspec longspec --preset builtin --window 128 --minutes "$minutes" --stages "$head_stages"
    train eagle3 eagle3 --preset builtin --minutes "$minutes" --stages "$eagle_stages"
    for head in longspec eagle3; do
        if [ -f "$run/$head/model.safetensors" ]; then
            cp "$run/$head/model.safetensors" "$OUT/builtin-$head.safetensors"
        fi
    done
fi
finish
