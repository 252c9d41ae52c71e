#!/bin/sh
# An hour of a causal stream by the clock, its prompt another one each second:
# memory, threads and descriptors stay what they were, and times are exact.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: hour.sh [SECONDS], or HOUR=SECONDS; 240 at least. Not part of make
# check: make check-all has it.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg"
seconds=${1:-${HOUR:-3600}}
[ "$seconds" -ge 240 ] || { echo "Bail out! 240 seconds at least"; exit 1; }
pid=
trap '[ -z "$pid" ] || kill $pid 2> /dev/null; wait; rm -rf "$tmp"' EXIT

# Encodings of prompts are kept: there are sixty, so that all are after a minute.
write_prompt()
{
    echo "a cat, $(($1 % 60))" > "$tmp/prompt.new" && mv "$tmp/prompt.new" "$tmp/prompt"
}

# A line each ten seconds: the time, kB of memory, threads, descriptors.
sample()
{
    echo "$1 $(sed -n 's/^\(VmRSS\|Threads\):[^0-9]*\([0-9]*\).*/\2/p' /proc/$pid/status |
        tr '\n' ' ')$(ls /proc/$pid/fd | wc -l)"
}
has_begun() { has '^lavfi.wan.prompt=' "$tmp/meta"; }

stream()
{
    write_prompt 0
    rest="text_encoder=$(quote "$tiny/wan-t2v"):tokenizer=$(quote "$tiny/wan-t2v"):vae=$(quote "$tiny/wan-t2v")"
    "$ffmpeg" -hide_banner -nostdin -y -xerror -v warning -filter_complex \
        "wan_t2v=model=$(quote "$tiny/self-forcing"):$rest:promptfile=$(quote "$tmp/prompt"):reload=1:size=48x32:seed=5:clips=0:window=9:sink=1:late=repeat,metadata=print:key=lavfi.wan.prompt:file=$(quote "$tmp/meta"):direct=1" \
        -flush_packets 1 -f framemd5 "$tmp/md5" > "$tmp/log" 2>&1 &
    pid=$!
    within $patience has_begun || { cat "$tmp/log"; return 1; }
    begun=$(date +%s) before=$(grep -c '^[0-9]' "$tmp/md5") i=0
    while [ $i -lt "$seconds" ] && kill -0 $pid; do
        [ $((i % 10)) -ne 5 ] || sample $i >> "$tmp/samples"
        i=$((i + 1))
        write_prompt $i
        sleep 1
    done
    took=$(($(date +%s) - begun))
    kill -INT $pid
    wait $pid
    same $? 255 && same $i "$seconds" || { cat "$tmp/log"; return 1; }
    pid=
}

exact()
{
    awk -F', *' '/^[0-9]/ { if ($2 != n || $3 != n || $4 != 1) bad = 1; n++ }
        END { print n " frames"; exit bad || !n }' "$tmp/md5"
}
# As many as there were sixteenths of a second since the first prompt was on
# screen, but for what is between looking at the clock and at the frames.
by_the_clock()
{
    n=$(($(grep -c '^[0-9]' "$tmp/md5") - before))
    echo "$n frames in $took s"
    [ "$n" -ge $((16 * (took - 5))) ] && [ "$n" -le $((16 * (took + 5))) ]
}
# none comes again out of its turn
in_order()
{
    sed -n 's/^lavfi.wan.prompt=a cat, //p' "$tmp/meta" | uniq > "$tmp/shown"
    awk -v seconds="$seconds" 'NR > 1 && ($1 - last + 60) % 60 > 30 { print last " " $1; bad = 1 }
        { last = $1 }
        END { print NR " prompts"; exit bad || NR < seconds / 2 }' "$tmp/shown"
}
# constant N: that column is the same in all samples
constant()
{
    awk -v n="$1" '{ print $n }' "$tmp/samples" | sort -u > "$tmp/values"
    same "$(wc -l < "$tmp/values" | tr -d ' ')" 1 || cat "$tmp/samples"
}
# In the last quarter no more than a mebibyte above the mean of the second.
flat()
{
    awk -v seconds="$seconds" '
        $1 >= seconds / 4 && $1 < seconds / 2 { sum += $2; n++ }
        $1 >= 3 * seconds / 4 && $2 > most { most = $2 }
        END { printf "%d kB, then %d\n", sum / n, most; exit most > sum / n + 1024 }' "$tmp/samples"
}
# told COMMAND...: what it says is a comment
told()
{
    "$@" > "$tmp/told"
    told_status=$?
    sed 's/^/# /' "$tmp/told" >&4
    return $told_status
}
exec 4>&1
check "$seconds seconds, and Ctrl-C" stream
check 'exact times' told exact
check 'by the clock' told by_the_clock
check 'prompts in their order' told in_order
check 'memory' told flat
check 'threads' constant 3
check 'descriptors' constant 4

finish
