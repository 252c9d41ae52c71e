#!/bin/sh
# Time the stages of a 1.3B-shaped model with random weights at a small size.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: stages.sh BUILD [TEXT-LAYERS]
# BUILD is the folder with bin/ and tests/; its bench/ keeps the checkpoint
# (14.5 GB with the text encoder's 24 layers, 6.0 GB with the default 2) for
# the next run. WAN_BENCH_MODEL names another checkpoint to use instead.

build=$1 layers=${2:-2}
tokenizer=$(dirname "$0")/../golden/tokenizer/spiece.model
model=${WAN_BENCH_MODEL:-$build/bench/t2v-1.3B-text$layers}

[ -x "$build/tests/bench/stages" ] || {
    echo "usage: stages.sh BUILD [TEXT-LAYERS]" >&2
    exit 2
}
if [ ! -d "$model" ]; then
    mkdir -p "$build/bench" && rm -rf "$model.part" || exit 1
    echo "writing $model"
    "$build/bin/wan-random" "$model.part" --shapes t2v-1.3B \
        --text-layers "$layers" --tokenizer "$tokenizer" > /dev/null &&
        mv "$model.part" "$model" || exit 1
fi
# The first run warms the page cache.
"$build/tests/bench/stages" "$model" 256x144 5 1 > /dev/null &&
    "$build/tests/bench/stages" "$model" 256x144 5 3
