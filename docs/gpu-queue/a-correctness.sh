#!/usr/bin/env bash
# (a) Every kernel over the grid of shapes against float64, and captured passes against plain ones, in bf16 and fp16.
# shellcheck source=common.sh
source "$(dirname "$0")/common.sh"
require "${PACKAGES[@]}" pytest
tests kernels 300 tests/attention
tests passes 200 tests/model/test_graphs.py tests/model/test_sliding_target.py tests/model/test_cuda.py tests/model/test_kernels.py tests/model/test_likeliest.py \
    tests/model/test_streamed.py
tests answers 200 tests/bench/test_replay.py
finish
