#!/bin/sh
# The demo model does what the prompt says: clips through the filters, judged
# in their pixels.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# JUDGE=quick, for make check, or full. DEMO_MODEL, DEMO_MODEL_I2V: other model
# directories than those of share/demo. JUDGE_KEEP: a folder for the clips, rgb24.
# JUDGE_OPTIONS: more options of the filters, as precision=int8.

. "$SRC/tests/fate/common.sh"
. "$SRC/tests/demo/common.sh"

frames=17
: "${DEMO_MODEL:=$SRC/share/demo/t2v}" "${DEMO_MODEL_I2V:=$SRC/share/demo/i2v}"
[ -d "$DEMO_MODEL" ] || { echo "Bail out! there is no model $DEMO_MODEL"; exit 1; }

case $JUDGE in
quick) prompts=10 chinese=0 stills=4 unguided=4 foreign=4 ;;
full)  prompts=1000 chinese=1000 stills=1000 unguided=36 foreign=24 ;;
esac

# ------------------------------------------------------------- the counting

# options MODEL SEED PROMPT [OPTIONS]: what both filters are told; steps,
# guidance and shift are the model's own
options()
{
    printf 'model=%s:prompt=%s:seed=%s:size=%s:frames=%s:format=rgb24%s' \
        "$(quote "$1")" "$(quote "$3")" "$2" $size $frames \
        "${4:+:$4}${JUDGE_OPTIONS:+:$JUDGE_OPTIONS}"
}

# t2v FILE SEED PROMPT [OPTIONS]
t2v()
{
    generate "$1" -f lavfi \
        -i "wan_t2v=$(options "$DEMO_MODEL" "$2" "$3" "${4-}")"
}

# i2v FILE SEED PROMPT STILL
i2v()
{
    generate "$1" -i "$4" \
        -vf "wan_i2v=$(options "$DEMO_MODEL_I2V" "$2" "$3")"
}

clear() { n=0 colour_ok=0 shape_ok=0 motion_ok=0 background_ok=0; }

# count COLOUR SHAPE MOTION BACKGROUND: the clip is to show these
count()
{
    n=$((n + 1)) before=$(sum)
    [ "$1" != "$saw_colour" ] || colour_ok=$((colour_ok + 1))
    [ "$2" != "$saw_shape" ] || shape_ok=$((shape_ok + 1))
    [ "$3" != "$saw_motion" ] || motion_ok=$((motion_ok + 1))
    [ "$4" != "$saw_background" ] || background_ok=$((background_ok + 1))
    [ "$(sum)" -eq $((before + 4)) ] || echo "# $seed '$prompt':" \
        "$saw_colour $saw_shape, $saw_motion, $saw_background"
}
sum() { echo $((colour_ok + shape_ok + motion_ok + background_ok)); }

# prompted FILE ROWS [OPTIONS]: generates and counts the first rows. $early is
# the sum of the first $unguided of them, $sums their checksums.
prompted()
{
    clear
    sums=
    while IFS=$tab read -r seed prompt colour shape motion background; do
        [ $n -lt "$2" ] || break
        if t2v "$tmp/$seed.rgb" "$seed" "$prompt" "${3-}"; then
            look "$tmp/$seed.rgb"
        else
            unseen
            : > "$tmp/$seed.rgb"
        fi
        count "$colour" "$shape" "$motion" "$background"
        if [ $n -le $unguided ]; then
            early=$(sum)
            sums="$sums $(cksum < "$tmp/$seed.rgb")"
        fi
        [ -z "${JUDGE_KEEP-}" ] ||
            cp "$tmp/$seed.rgb" "$JUDGE_KEEP/$seed${3:+-$3}.rgb"
        rm -f "$tmp/$seed.rgb"
    done < "$1"
}

# ----------------------------------------------- the judge knows what it sees

# stills_known [HOW...]: a still 17 times is its object and background, without
# motion
stills_known()
{
    clear
    while IFS=$tab read -r seed still prompt colour shape motion background; do
        case $seed in *[02468]) continue ;; esac    # two rows share a still
        "$ffmpeg" -v error -nostdin -y -i "$data/$still" -pix_fmt rgb24 \
            -f rawvideo "$tmp/still" || return 1
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17; do
            cat "$tmp/still"
        done > "$tmp/rest.rgb"
        look "$tmp/rest.rgb" "$@"
        count "$colour" "$shape" none "$background"
    done < "$data/stills.txt"
    echo "$(sum) of $((4 * n)) right"
    [ $n -ge 10 ] && [ "$(sum)" -eq $((4 * n)) ]
}
check 'the judge knows the stills, and that they rest' stills_known
check 'and as a part of a scene that goes on' stills_known --live 0 17

# ------------------------------------------------------------- text to video

prompted "$data/prompts.txt" $prompts
guided=$early guided_sums=$sums
enough $colour_ok $n 90 'colour'
enough $motion_ok $n 90 'motion'
enough $shape_ok $n 80 'shape'
enough $background_ok $n 80 'background'

if [ $chinese -gt 0 ]; then
    prompted "$data/prompts-zh.txt" $chinese
    enough "$(sum)" $((4 * n)) 75 'prompts in Chinese, all attributes'
fi

# Guidance matters. Of many clips the sum without it is lower, unless there's
# nothing to be lost; of few it may be equal. The clips are others.
prompted "$data/prompts.txt" $unguided guidance=1
without=$(sum)
if [ "$guided" -eq $((4 * n)) ] || [ $slack -gt 0 ]; then
    [ "$without" -le "$guided" ]
else
    [ "$without" -lt "$guided" ]
fi
lower=$?
[ $lower -eq 0 ] && [ "$sums" != "$guided_sums" ]
report $? "guidance=1: $without of $((4 * n)) right, with the model's guidance $guided"

# The text decides, not the noise: each seed with the prompt of another row.
# Counted is what differs between the two rows.
rows=$(wc -l < "$data/prompts.txt")
{
    tail -n +$((rows / 2 + 1)) "$data/prompts.txt"
    head -n $((rows / 2)) "$data/prompts.txt"
} | paste "$data/prompts.txt" - | head -n $foreign > "$tmp/foreign.txt"
clips=0 differ=0 follows=0 stays=0
while IFS=$tab read -r seed _ own_colour own_shape own_motion own_background \
        _ prompt colour shape motion background; do
    clips=$((clips + 1))
    unseen
    t2v "$tmp/foreign.rgb" "$seed" "$prompt" && look "$tmp/foreign.rgb"
    for a in colour shape motion background; do
        eval "own=\$own_$a text=\$$a saw=\$saw_$a"
        [ "$own" != "$text" ] || continue
        differ=$((differ + 1))
        [ "$saw" != "$text" ] || follows=$((follows + 1))
        [ "$saw" != "$own" ] || stays=$((stays + 1))
    done
done < "$tmp/foreign.txt"
enough $follows $differ 80 "$clips seeds with another row's prompt follow it"
[ $stays -le $((differ / 5)) ]
report $? "and not their own row's: $stays of $differ, at most $((differ / 5))"

# ------------------------------------------------------------ image to video

[ -d "$DEMO_MODEL_I2V" ] || {
    skip 'image to video' "there is no model $DEMO_MODEL_I2V"
    finish
    exit
}
clear
first=0
while IFS=$tab read -r seed still prompt colour shape motion background; do
    [ $n -lt $stills ] || break
    unseen
    db=0
    "$ffmpeg" -v error -nostdin -y -i "$data/$still" -pix_fmt rgb24 \
        -f rawvideo "$tmp/still" &&
        i2v "$tmp/$seed.rgb" "$seed" "$prompt" "$data/$still" && {
        look "$tmp/$seed.rgb"
        db=$("$judge" --psnr $size "$tmp/$seed.rgb" "$tmp/still")
    }
    count "$colour" "$shape" "$motion" "$background"
    if [ "${db%.*}" -ge 30 ]; then
        first=$((first + 1))
    else
        echo "# $seed: first frame at $db dB"
    fi
    [ -z "${JUDGE_KEEP-}" ] || cp "$tmp/$seed.rgb" "$JUDGE_KEEP/$seed.rgb"
    rm -f "$tmp/$seed.rgb"
done < "$data/stills.txt"
[ $n -gt 0 ] && [ $first -eq $n ]
report $? "the still is the first frame (30 dB): $first of $n"
enough $motion_ok $n 85 'motion of stills'
enough $colour_ok $n 90 'colour of stills kept'

finish
