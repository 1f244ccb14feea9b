# Sourced by the scripts of the GPU queue: what they have in common.
#
#   PYTHON=…       the interpreter (default: .venv/bin/python, else python3)
#   OUT=…          where results go (default: docs/results)
#   WHEELS=…       a folder of wheels that are put before PYTHON's own packages, for a machine without a network
#   LIMIT=…        seconds for all parts together (default: 520)
#   REHEARSAL=1    tiny sizes, on the CPU too: whether the script runs, not how fast anything is
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
OUT=${OUT:-docs/results}
LIMIT=${LIMIT:-520}
REHEARSAL=${REHEARSAL:-}
ENTRY=$(basename "$0" .sh)
FAILED=()
mkdir -p "$OUT"
if [ -n "${WHEELS:-}" ]; then
    SITE=$(mktemp -d)
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SITE" "$WHEELS"/*.whl
    export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export TRITON_DEFAULT_FP_FUSION=1 HF_HUB_OFFLINE=1

# require NAME…: one line that says which packages are missing, or that there is no GPU; exit status 2.
require() {
    "$PYTHON" - "${REHEARSAL:-0}" "$@" <<'PY' || exit 2
import importlib.util
import sys

missing = [name for name in sys.argv[2:] if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"{sys.executable} lacks: {', '.join(missing)}. Install the project, or name a folder of wheels in WHEELS.")
if sys.argv[1] == "0":
    import torch

    if not torch.cuda.is_available():
        sys.exit("There is no CUDA device. REHEARSAL=1 runs this script with tiny sizes on the CPU.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
PY
}

# part NAME SECONDS COMMAND…: run it for so long at most, and not beyond LIMIT; go on if it fails.
part() {
    local name=$1 most=$2 status=0 began=$SECONDS left
    shift 2
    left=$((LIMIT - SECONDS))
    if [ "$left" -lt 10 ]; then
        echo "== $name: no time left"
        FAILED+=("$name")
        return 0
    fi
    if [ "$left" -lt "$most" ]; then most=$left; fi
    echo "== $name (at most $most s)"
    # Work in the background is begun with this signal ignored, so it is given its meaning back.
    timeout --signal=INT --kill-after=10 "$most" env --default-signal=INT "$@" 2>&1 | tee -a "$OUT/$ENTRY.log" || status=$?
    echo "== $name: $((SECONDS - began)) s, status $status"
    if [ "$status" != 0 ]; then FAILED+=("$name"); fi
}

# tests NAME SECONDS FILE…: those for a GPU, side by side, as each compiles kernels of its own; what failed so far is told
# also when their time is up.
tests() {
    local workers=() cores
    if "$PYTHON" -c 'import xdist' 2>/dev/null && [ -z "$REHEARSAL" ]; then
        cores=$(nproc 2>/dev/null || echo 6)
        workers=(-n "$((cores < 12 ? cores : 12))")
    fi
    part "$1" "$2" "$PYTHON" -m pytest -m gpu -q -rfE --tb=short --durations=8 -p no:cacheprovider "${workers[@]}" "${@:3}"
}

bench() { part "$1" "$2" "$PYTHON" -m spec_engine bench "${@:3}"; }

# finish FILE…: the goals beside the figures of these result files, what failed, the exit status.
finish() {
    echo "== goals"
    if [ $# -gt 0 ]; then "$PYTHON" -m spec_engine.bench.goals "$OUT" "$@" | tee -a "$OUT/$ENTRY.log"; fi
    if [ ${#FAILED[@]} -gt 0 ]; then
        echo "== FAILED: ${FAILED[*]} ($SECONDS s in all)"
        exit 1
    fi
    echo "== all parts done ($SECONDS s in all)"
}
PACKAGES=(torch transformers huggingface_hub safetensors tokenizers httpx2 docx pptx pypdfium2 lxml charset_normalizer)
: >"$OUT/$ENTRY.log"
