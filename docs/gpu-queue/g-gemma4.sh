#!/usr/bin/env bash
# (g) Gemma 4 with its multi-token prediction heads: passes, drafting times and answers at published sizes.
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"
require "${PACKAGES[@]}"
here=docs/gpu-queue
small=gemma4-e4b large=gemma4-12b-4bit shape=gemma-4-E4B-it lengths=2K,16K,32K tokens=256 means=3.0 rows=1,8,24,4096
dense=$OUT/gemma4-12b.toml
sed -e '/^quantization/d' presets/$large.toml >"$dense" # random weights are not quantised; a large card holds them all
if [ -n "$REHEARSAL" ]; then
    small=$here/rehearsal/mtp.toml dense=$small shape=tiny-gemma4 lengths=64,128 tokens=24 means=2.2 rows=1,8,64
fi
bench passes 150 --limit --shape "$shape" --lengths "$lengths" --rows "$rows" --parts passes,retrieval,reading --out "$OUT/limit-gemma4-e4b.json"
bench e4b-answers 130 --preset "$small" --replay "$means" --lengths "$lengths" --max-tokens "$tokens" \
    --out "$OUT/replay-gemma4-e4b.json"
bench e4b-lengths 110 --preset "$small" --fixed-budget --replay "$means" --lengths "$lengths" --max-tokens "$tokens" \
    --out "$OUT/drafting-gemma4-e4b.json"
bench 12b-answers 130 --preset "$dense" --replay "$means" --lengths "$lengths" --max-tokens "$tokens" \
    --out "$OUT/replay-gemma4-12b.json"
finish limit-gemma4-e4b.json replay-gemma4-e4b.json drafting-gemma4-e4b.json replay-gemma4-12b.json
