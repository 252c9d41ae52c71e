# What both scripts here share: clips by ffmpeg, what the judge says of them, how
# many are enough. Source it after tests/fate/common.sh.
#
# This file is part of libwan; see the licence in wan/wan.h.

data=$SRC/tests/demo
judge=$B/tests/demo/judge
size=160x96
tab=$(printf '\t')

need "$ffmpeg" "$judge"

# Limits are parts of the clips in percent. Of few clips one more may fail
# than the part allows: 8 of 10 where it says 90.
case ${JUDGE:=quick} in
quick) slack=1 ;;
full)  slack=0 ;;
*)     echo "Bail out! JUDGE=$JUDGE is neither quick nor full"; exit 1 ;;
esac

# generate FILE ARGUMENT...: a clip as raw video
generate()
{
    clip=$1
    shift
    rm -f "$clip"
    timeout 600 "$ffmpeg" -hide_banner -nostdin -y -xerror "$@" \
        -f rawvideo "$clip" > /dev/null 2> "$tmp/log" && return 0
    echo "# no clip:"
    tail -n 5 "$tmp/log" | sed 's/^/# /'
    return 1
}

unseen()
{
    saw_colour=none saw_shape=none saw_motion=none saw_background=none
}

# look FILE [HOW...]: sets $saw_colour, $saw_shape, $saw_motion, $saw_background
look()
{
    look_at=$1
    shift
    if "$judge" "$@" $size "$look_at" > "$tmp/verdict" 2> "$tmp/log"; then
        IFS=$tab read -r saw_colour saw_shape saw_motion saw_background _ \
            < "$tmp/verdict"
    else
        sed 's/^/# /' "$tmp/log"
        unseen
    fi
}

# enough RIGHT OF PERCENT NAME
enough()
{
    least=$((($2 * $3 + 99) / 100 - slack))
    [ "$2" -gt 0 ] && [ "$1" -ge $least ]
    report $? "$4: $1 of $2, at least $least"
}
