#!/bin/sh
# A stream beside other work: a clip alone and beside busy processes, whether a
# live stream keeps its rate, and two encoders at once. Ratios of one run; on a
# machine that does nothing else.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: stream.sh BUILD [SECONDS [STEPS]]
#
#   SECONDS   of each stream; 30
#   STEPS     of its clips; the model's own. A stream can keep its rate if that
#             many are made in time, which the unpaced rate tells.

B=$1 seconds=${2:-30} steps=${3:--1}
ffmpeg=$B/bin/ffmpeg rate=$B/tests/bench/rate
[ -x "$ffmpeg" ] && [ -x "$rate" ] || { echo "stream.sh: make ffmpeg bench" >&2; exit 1; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/wan-bench.XXXXXX") || exit 1
busy=
trap 'kill $busy 2> /dev/null; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
unset WAN_MODEL

prompt="prompt=a red ball bounces over a grassy field:seed=1"
now() { date +%s%N | sed 's/......$//'; }

# clip: milliseconds of one
clip()
{
    start=$(now)
    "$ffmpeg" -nostdin -v error -f lavfi -i "wan_t2v=$prompt" -f null - || exit 1
    echo $(($(now) - start))
}

# with N COMMAND...: beside N busy processes
with()
{
    n=$1 busy=
    shift
    while [ "$n" -gt 0 ]; do
        sh -c 'while :; do :; done' & busy="$busy $!"
        n=$((n - 1))
    done
    "$@"
    [ -z "$busy" ] || { kill $busy; wait $busy; } 2> /dev/null
    busy=
}

median() { sort -n "$1" | sed -n 3p; }

echo "a clip of the demo model, medians of 5 alternating runs:"
clip > /dev/null
for round in 1 2 3 4 5; do
    for n in 0 1 2; do
        with $n clip >> "$tmp/$n"
    done
done
alone=$(median "$tmp/0")
for n in 1 2; do
    echo "$alone $(median "$tmp/$n") $n" |
        awk '{ printf "  beside %d busy: %.2f times the %.2f s alone\n", $3, $2 / $1, $1 / 1000 }'
done

stream="wan_t2v=$prompt:clips=0:steps=$steps"
live()
{
    "$ffmpeg" -nostdin -v fatal $1 -f lavfi -i "$stream" -pix_fmt yuv420p -f rawvideo - |
        "$rate" 160 96 16 $((seconds * 16))
}
echo "clips=0:steps=$steps, unpaced:"
with 0 live | sed 's/, largest.*//; s/^/  idle: /'
with 1 live | sed 's/, largest.*//; s/^/  beside 1 busy: /'
echo "-re:"
with 0 live -re | sed 's/^/  idle: /'
with 1 live -re | sed 's/^/  beside 1 busy: /'

# Both end in time if they keep their rates; the first frame takes a moment.
two()
{
    start=$(now)
    "$ffmpeg" -nostdin -v error -re -f lavfi -i testsrc2=s=1280x720:r=25 \
        -re -f lavfi -i "$stream" \
        -t $seconds -map 0 -c:v libx264 -preset veryfast -f null - \
        -t $seconds -map 1 -c:v libx264 -f null - || exit 1
    echo "$seconds $(($(now) - start))" |
        awk '{ printf "  %d s of both in %.2f s\n", $1, $2 / 1000 }'
}
echo "x264 of 1280x720 at 25 fps beside x264 of the stream, both -re:"
two
