#!/usr/bin/env bash
# Wheels of what the project needs besides torch, for a machine without a network: wheels.sh FOLDER [3.12 [x86_64]]
# Then there: WHEELS=FOLDER docs/gpu-queue/a-correctness.sh
set -euo pipefail
folder=${1:?wheels.sh FOLDER [PYTHON_VERSION [MACHINE]]} version=${2:-3.12} machine=${3:-x86_64}
platforms=()
for glibc in 2014 _2_17 _2_24 _2_27 _2_28 _2_31 _2_34; do platforms+=(--platform "manylinux${glibc}_$machine"); done
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" \
    --implementation cp "${platforms[@]}" --dest "$folder" \
    'transformers>=5.18,<5.25' 'huggingface-hub>=2.4,<3' 'tokenizers>=0.22,<0.24' 'safetensors>=0.6,<1' \
    'httpx2>=2,<3' httpcore2 truststore 'pypdfium2>=5,<6' 'python-docx>=1.2,<2' 'python-pptx>=1,<2' XlsxWriter \
    'charset-normalizer>=3.4,<4'
ls "$folder"
