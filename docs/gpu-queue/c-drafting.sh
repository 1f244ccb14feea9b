#!/usr/bin/env bash
# (c) Drafting times and whole answers at published sizes, with acceptance replayed from the papers.
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"
require "${PACKAGES[@]}"
here=docs/gpu-queue
eagle3=llama31-8b-eagle3 longspec=llama3-8b-262k-longspec lm=$here/llama31-8b-1b.toml vicuna=vicuna-7b-16k
profile=5.03,4.68,3.99,3.96,3.80 growing=1K,2K,4K,8K,16K lengths=2K,16K,64K,128K tokens=256
small=3.80,3.52,3.04,3.06,3.07 most=1K,2K,4K,8K,15K
if [ -n "$REHEARSAL" ]; then
    eagle3=$here/rehearsal/eagle3.toml longspec=$here/rehearsal/longspec.toml lm=$here/rehearsal/lm.toml vicuna=$lm
    profile=2.5,2.2 growing=32,64 lengths=64,128 tokens=24 small=2.5,2.2 most=32,64
fi
# LENGTHS of MEANS, behind each other: EAGLE-3 as SpecExtend measured it on GovReport, then how drafting grows with length
bench eagle3-answers 150 --preset "$eagle3" --replay "$profile" --lengths "$growing" --max-tokens "$tokens" \
    --out "$OUT/replay-eagle3.json"
bench eagle3-lengths 100 --preset "$eagle3" --fixed-budget --replay 3.80 --lengths "$lengths" --max-tokens "$tokens" \
    --out "$OUT/drafting-eagle3.json"
bench longspec-lengths 110 --preset "$longspec" --fixed-budget --replay 3.5 --lengths "$lengths" --max-tokens "$tokens" \
    --out "$OUT/drafting-longspec.json"
bench lm-lengths 90 --preset "$lm" --replay 3.5 --lengths "$lengths" --max-tokens "$tokens" \
    --out "$OUT/drafting-lm-1b.json"
bench lm-answers 70 --preset "$vicuna" --replay "$small" --lengths "$most" --max-tokens "$tokens" \
    --out "$OUT/replay-vicuna.json"
finish replay-eagle3.json drafting-eagle3.json drafting-longspec.json drafting-lm-1b.json replay-vicuna.json
