#!/bin/sh
# What the models compute at full size: operations and shapes of whole runs,
# by the plan backend, without weights.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# With GEN=1 the references are written instead: look at the difference.

. "$SRC/tests/fate/common.sh"
info=$B/bin/wan-info
need "$info"

# trace NAME SIZE FRAMES: against tests/fate/trace-NAME-SIZE-FRAMES.txt
trace()
{
    reference=$SRC/tests/fate/trace-$1-$2-$3.txt
    "$info" --device cpu --precision f32 --shapes "$1" --size "$2" --frames "$3" --trace > "$tmp/trace" ||
        return 1
    [ -s "$tmp/trace" ] || return 1
    [ "${GEN:-0}" = 0 ] || cp "$tmp/trace" "$reference"
    diff "$reference" "$tmp/trace"
}
check '1.3B, 81 frames of 832x480' trace t2v-1.3B 832x480 81
check '14B, 81 frames of 832x480'  trace t2v-14B 832x480 81
check '14B, one image of 1280x720' trace t2v-14B 1280x720 1
check '5B, 121 frames of 1280x704' trace ti2v-5B 1280x704 121

# Numbers that the published checkpoints have.
published()             # SHAPES NUMBERS [SIZE FRAMES TOKENS]
{
    "$info" --shapes "$1" --size "${3:-832x480}" --frames "${4:-81}" > "$tmp/info" || return 1
    has "$2 numbers" "$tmp/info" && has ' 5,680,910,336 numbers' "$tmp/info" &&
        has "tokens +${5:-32760}\$" "$tmp/info"
}
check '1.3B as published' published t2v-1.3B 1,418,996,800
check '14B as published'  published t2v-14B 14,288,491,584
check '5B as published'   published ti2v-5B 4,999,787,712 1280x704 121 27280
check 'VACE 1.3B as published' published vace-1.3B 2,153,972,032
check 'VACE 14B as published'  published vace-14B 17,337,592,896 1280x720 81 75600
check 'A14B as published, from text' published t2v-a14b 14,288,491,584 1280x720 81 75600
check 'and from an image' published i2v-a14b 14,288,901,184 1280x720 81 75600

# By four: of Q, K, V and what attention gives each rank sends half of its rows to
# the other of its half, in 30 self-attentions of one branch; tokens and
# velocities are few beside it.
by_four()
{
    "$info" --device cpu --shapes t2v-1.3B --size 832x480 --frames 81 --ranks 4 > "$tmp/info" || return 1
    awk '$1 == "each" { n++; sent = $(NF - 2); flops = $(NF - 4) } $1 == "a" && $2 == "step" { whole = $3 }
         END { want = 30 * 4 * 32760 / 2 / 2 * 1536 * 4 / 1e9
               exit !(n == 1 && sent > want && sent < 1.01 * want && flops > 0.249 * whole && flops < 0.26 * whole) }' "$tmp/info"
}
check 'what each of four ranks sends and computes' by_four
too_many() { ! "$info" --shapes t2v-1.3B --ranks 65 > "$tmp/out" 2>&1 && has 'ranks 65' "$tmp/out"; }
check 'more ranks than there can be' too_many

# The same, at a TFLOP and a GB a second and 10 ms an exchange: 24 an attention, as
# its 6 heads come one after the other, tokens, velocities and the other branch's.
# Those of 5 heads are hidden.
predicted()
{
    "$info" --shapes t2v-1.3B --size 832x480 --frames 81 --ranks 4 --speed 1,8,10,1e9 > "$tmp/info" || return 1
    awk 'function near(a, b) { return a > 0.995 * b && a < 1.005 * b }
         $1 == "each" { sent = $(NF - 2); flops = $(NF - 4) } $1 == "a" && $2 == "step" && $4 == "TFLOP," { whole = $3 }
         $1 == "predicted" { step = $4
             part = near($6, flops) && near($8, sent + 7.23) && $10 == 723 && near($12, 5 / 6 * (sent + 7.2)) &&
                    near($4, $6 + $8 - $12) }
         $1 == "a" && $4 == "times" { times = $3 }
         END { exit !(part && times > 0.99 * whole / step && times < 1.01 * whole / step) }' "$tmp/info"
}
check 'what they take, predicted' predicted
bad_speed()     # OPTIONS...
{
    "$info" --shapes t2v-1.3B "$@" > "$tmp/out" 2>&1
    [ $? -eq 2 ] && has speed "$tmp/out"
}
check 'a speed of three numbers' bad_speed --ranks 4 --speed 1,8,1000
check 'a speed of nothing' bad_speed --ranks 4 --speed 0,8,0,1
check 'a speed of no ranks' bad_speed --speed 1,8,0,1

unknown() { ! "$info" --shapes t2v-7B --trace > "$tmp/out" 2>&1 && has t2v-7B "$tmp/out"; }
check 'no such shapes' unknown

finish
