#!/usr/bin/env bash
# (e) flash-attn, Triton and torch over rows and keys; a draft's likeliest tokens by torch and by our kernels; then how our
#     Triton kernels of attention and products are best cut.
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"
require "${PACKAGES[@]}"
lengths=2K,16K,64K,128K rows=1,8,16,32,64 seconds=100 shapes=()
if [ -n "$REHEARSAL" ]; then lengths=64,128 rows=1,8 seconds=5 shapes=(--shape tiny,tiny-draft); fi
bench kernels 460 --kernels "${shapes[@]}" --lengths "$lengths" --rows "$rows" --sweep "$seconds" --out "$OUT/kernels.json"
finish kernels.json
