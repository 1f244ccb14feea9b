#!/usr/bin/env bash
# (f) Speed of the built-in models on a GPU. DATA=…: a folder of texts (default: the bundled report).
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"
require "${PACKAGES[@]}"
size=(--texts 2)
if [ -n "$REHEARSAL" ]; then size=(--lengths 256 --texts 1 --questions 1 --max-tokens 8 --drafters none,lookup); fi
bench speed 480 ${DATA:+--data "$DATA"} "${size[@]}" --out "$OUT/bench-builtin-gpu.json"
finish
