#!/bin/sh
# The causal demo model turns to a new prompt and keeps the rest, and its colours
# stay: scenes through ffmpeg, judged in their pixels.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# JUDGE=quick, for make check, or full. DEMO_MODEL_CAUSAL: another model directory
# than share/demo/causal. LIVE_FRAMES: a folder with frames in place of a model's,
# as tools/demo-model/live_check.py writes them. LIVE_MINUTES: of stream, 0 to 99.
# JUDGE_KEEP: a folder for the frames of the switches, rgb24, and for drift.txt, a
# line of figures for each minute. JUDGE_OPTIONS: as of judge.sh.

. "$SRC/tests/fate/common.sh"
. "$SRC/tests/demo/common.sh"

: "${DEMO_MODEL_CAUSAL:=$SRC/share/demo/causal}"
[ -d "$DEMO_MODEL_CAUSAL" ] || [ -n "${LIVE_FRAMES-}" ] || {
    echo "Bail out! there is no model $DEMO_MODEL_CAUSAL"
    exit 1
}

case $JUDGE in
quick) switches=10 minutes=0 ;;
full)  switches=1000 minutes=10 ;;
esac
minutes=${LIVE_MINUTES:-$minutes}
case $minutes in
[0-9]|[1-9][0-9]) ;;
*) echo "Bail out! LIVE_MINUTES=$minutes is no number from 0 to 99"; exit 1 ;;
esac
rate=16
soon=16         # frames in which a prompt is to be followed

# endless PROMPT SEED COMMANDS: the filters, with commands for certain times.
# ahead=0: a command meets the block after the frames that have left.
endless()
{
    printf 'wan_t2v=model=%s:prompt=%s:seed=%s:size=%s:rate=%s:clips=0:ahead=0:format=rgb24%s,sendcmd=f=%s' \
        "$(quote "$DEMO_MODEL_CAUSAL")" "$(quote "$1")" "$2" $size $rate \
        "${JUDGE_OPTIONS:+:$JUDGE_OPTIONS}" "$(quote "$3")"
}

# tell FRAME PROMPT: is sent when the second frame before FRAME passes; the block
# that begins with FRAME is begun when the first has left
tell()
{
    awk -v frame="$1" -v rate=$rate \
        'BEGIN { printf "%.5f wan_t2v prompt ", (frame - 2.5) / rate }'
    printf "'%s';\n" "$2"
}

# ------------------------------------------------------------- the switches

# turned FILE: its frames, in which the prompt changes at $at
turned()
{
    [ -z "${LIVE_FRAMES-}" ] || { cp "$LIVE_FRAMES/$seed.rgb" "$1"; return; }
    tell "$at" "$second" > "$tmp/commands"
    generate "$1" -f lavfi -i \
        "$(endless "$first" "$seed" "$tmp/commands"),metadata=print:key=lavfi.wan.prompt:file=$(quote "$tmp/meta")" \
        -frames:v $((at + soon)) || return 1
    turn=$(awk -F= '/^frame:/ { split($0, f, /[: ]+/) }
        /^lavfi/ { if (NR > 2 && $2 != last) print f[2]; last = $2 }' "$tmp/meta" | tr '\n' ' ')
    [ "$turn" = "$at " ] || { echo "# $seed: another prompt at '$turn', not $at"; return 1; }
}

# What a stretch looks like is what its last block shows, how it moves is told
# from all of its frames. Before the switch: up to 17 frames. After it: the last
# frame before and the 16 in which it is to be followed; so a motion has to begin
# and be told in these, and a look to be there in the last four of them.
stretches()
{
    begin=$((at > soon + 1 ? at - soon - 1 : 0))
    look "$1" --live $begin $((at - begin))
    for a in $attributes; do eval "was_$a=\$saw_$a"; done
    look "$1" --live $((at - 1)) $((soon + 1))
}

attributes='colour shape motion background'
n=0 followed=0 kept=0
for a in $attributes; do eval "begun_$a=0"; done
while IFS=$tab read -r seed at first second \
        first_colour first_shape first_motion first_background \
        second_colour second_shape second_motion second_background; do
    [ $n -lt $switches ] || break
    n=$((n + 1)) follows=1 keeps=1 faults=
    if turned "$tmp/$seed.rgb"; then
        stretches "$tmp/$seed.rgb"
        [ -z "${JUDGE_KEEP-}" ] || cp "$tmp/$seed.rgb" "$JUDGE_KEEP"
    else
        unseen
        was_colour=none was_shape=none was_motion=none was_background=none
    fi
    for a in $attributes; do
        eval "first_a=\$first_$a second_a=\$second_$a was=\$was_$a saw=\$saw_$a"
        if [ "$was" = "$first_a" ]; then
            eval "begun_$a=\$((begun_$a + 1))"
        else
            faults="$faults; $a began as $was not $first_a"
        fi
        # What the prompt keeps may be wrong since before: then it stays so.
        if [ "$saw" = "$second_a" ]; then
            :
        elif [ "$first_a" != "$second_a" ]; then
            follows=0 faults="$faults; $a $saw not $second_a"
        elif [ "$saw" != "$was" ] || [ "$saw" = none ]; then
            keeps=0 faults="$faults; $a $saw, was $was"
        fi
    done
    followed=$((followed + follows)) kept=$((kept + keeps))
    [ -z "$faults" ] || echo "# $seed '$first', '$second'$faults"
    rm -f "$tmp/$seed.rgb"
done < "$data/switches.txt"
echo "# followed $followed of $n, kept $kept of $n"
enough $begun_colour $n 90 'colour before the switch'
enough $begun_motion $n 90 'motion before the switch'
enough $begun_shape $n 80 'shape before the switch'
enough $begun_background $n 80 'background before the switch'
enough $followed $n 90 "switches followed within $soon frames"
enough $kept $n 90 'switches that keep what the prompt keeps'

# ------------------------------------------------------------------ the drift

# stream: rgb24 of all minutes. Its prompt is another every ten seconds, and each
# minute the same ones, before a background that stays.
stream()
{
    [ -z "${LIVE_FRAMES-}" ] || { cat "$LIVE_FRAMES/drift.rgb"; return; }
    at=0
    : > "$tmp/commands"
    while [ $at -lt $frames ]; do
        while read -r prompt; do
            # a block's first frame, as all 4 n + 1 are
            [ $at -eq 0 ] || tell $((at + 1)) "$prompt" >> "$tmp/commands"
            at=$((at + 10 * rate))
        done < "$data/drift.txt"
    done
    read -r prompt < "$data/drift.txt"
    timeout 7200 "$ffmpeg" -hide_banner -nostdin -xerror -v error -f lavfi -i \
        "$(endless "$prompt" 501 "$tmp/commands"),metadata=print:key=lavfi.wan.prompt:file=$(quote "$tmp/meta")" \
        -frames:v $frames -f rawvideo -
}
prompts_shown() { sed -n 's/^lavfi.wan.prompt=//p' "$tmp/meta" | uniq | wc -l | tr -d ' '; }

# The last minute beside the first: no number is another by more than a tenth.
steady()
{
    frames=$((60 * minutes * rate))
    stream 2> "$tmp/log" | "$judge" --drift $((60 * rate)) $size - > "$tmp/drift"
    [ -z "${JUDGE_KEEP-}" ] || cp "$tmp/drift" "$JUDGE_KEEP/drift.txt"
    awk -v minutes=$minutes '
        BEGIN { split("red,green,blue,spread of red,spread of green,spread of blue," \
            "saturation,sharpness", name, ",") }
        { print "minute " NR ": " $0 }
        NR == 1 { split($0, begun) }
        NR == minutes {
            for (i = 1; i <= 8; i++)
                if ($i > 1.1 * begun[i] || $i < 0.9 * begun[i]) {
                    print name[i] ": " $i ", was " begun[i]
                    bad = 1
                }
        }
        END { exit bad || NR != minutes }' "$tmp/drift" &&
        { [ -n "${LIVE_FRAMES-}" ] || same "$(prompts_shown)" $((6 * minutes)); } &&
        return 0
    cat "$tmp/log"
    return 1
}
[ $minutes -eq 0 ] ||
    check "colours and sharpness of minute $minutes within 10 % of minute 1" steady

finish
