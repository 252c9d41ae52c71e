#!/bin/sh
# tools/parity on the demo models: all agrees, and a mistake is found where it
# is made. Needs Python with torch, and is skipped without.
#
# This file is part of libwan; see the licence in wan/wan.h.

python=${PYTHON:-python3}

if ! "$python" -c 'import torch, safetensors, sentencepiece, tokenizers' 2> /dev/null; then
    echo "ok 1 - tools/parity # SKIP no Python with torch, see tools/demo-model/requirements.txt"
    echo "1..1"
    exit
fi
"$python" "$SRC/tools/parity/check_parity.py" "$B"
