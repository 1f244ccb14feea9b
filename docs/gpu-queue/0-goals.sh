#!/usr/bin/env bash
# (0) For a quarter of an hour: the goals of (b), EAGLE-3's of (c), and what they stand on of (a).
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"
require "${PACKAGES[@]}" pytest
shape=Llama-3.1-8B-Instruct eagle3=llama31-8b-eagle3 lengths=2K,16K,128K rows=1,64,4096 at=16K ends=2K,128K mean=3.80 tokens=192
if [ -n "$REHEARSAL" ]; then
    shape=tiny eagle3=docs/gpu-queue/rehearsal/eagle3.toml lengths=256,512 rows=1,64,512 at=64 ends=64,128 mean=2.2 tokens=24
fi
tests right 110 tests/attention tests/model/test_graphs.py tests/model/test_streamed.py \
    -k "bfloat16 or captured or graph or another"
bench limits 170 --limit --shape "$shape" --lengths "$lengths" --rows "$rows" --parts passes,retrieval,reading \
    --out "$OUT/limit-llama-8b.json"
bench eagle3-answers 110 --preset "$eagle3" --replay "$mean" --lengths "$at" --max-tokens "$tokens" \
    --out "$OUT/replay-eagle3.json"
bench eagle3-lengths 130 --preset "$eagle3" --fixed-budget --replay "$mean" --lengths "$ends" --max-tokens "$tokens" \
    --out "$OUT/drafting-eagle3.json"
finish limit-llama-8b.json replay-eagle3.json drafting-eagle3.json
