#!/bin/sh
# One Ctrl-C or q ends ffmpeg at any stage, with a playable file of the frames
# that are done.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# The tiny model at sizes that make one step and one chunk take seconds. Its
# weights are opened in a millisecond, so 'load' is the moment when that is
# done; its text encoder is as quick, so 'text' is the start of the clip.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$ffprobe" "$tools/pty"

limit=3                 # seconds of work, of all threads, from the key to the end
codec=mpeg4
"$ffmpeg" -hide_banner -encoders 2> /dev/null | grep -q ' libx264 ' && codec=libx264
AV_LOG_FORCE_NOCOLOR=1
export AV_LOG_FORCE_NOCOLOR

# press KEY DELAY PATTERN ARGUMENT...: sets $status, $seconds, $work, $seen, $frames:
# how many the filter says that it has delivered
press()
{
    key=$1 delay=$2 pattern=$3
    shift 3
    rm -f "$tmp/a.mp4" "$tmp/a.mkv"
    "$tools/pty" "$key" "$delay" $patience "$pattern" \
        "$ffmpeg" -hide_banner -y -xerror "$@" > "$tmp/pty" 2> "$tmp/log"
    read -r _ status _ seconds _ work _ seen < "$tmp/pty"
    frames=$(sed -n 's/.*interrupted, \([0-9]*\) frames delivered.*/\1/p' "$tmp/log")
    cat "$tmp/pty" >> "$tmp/log"
    sed 's/^/# /' "$tmp/pty"
}

# prompt_end: the exit status is right and came in time. It is the work that is
# counted, as on a busy machine the same takes longer.
prompt_end()
{
    want=255
    [ "$key" = ctrl-c ] || want=0
    [ "$seen" = 1 ] || { echo "'$pattern' never came"; return 1; }
    awk 'BEGIN { exit !(ARGV[1] >= 0 && ARGV[1] <= ARGV[2]) }' \
        "$work" "$limit" || { echo "$seconds s, $work s of work"; return 1; }
    [ "$status" = $want ] || { echo "exit status $status"; return 1; }
}

# no_file FILE: it is not there; or without frames from 5.1, which opens the
# output before it has one
no_file()
{
    [ -e "$1" ] || return 0
    echo "$1 is there"
    [ "$series" = 5.1 ] || return 1
    "$ffprobe" -v quiet -show_packets "$1" > "$tmp/packets"
    lacks PACKET "$tmp/packets"
}

# playable FILE: it decodes, to exactly the frames that were delivered. (A
# filter that was not waiting is closed by ffmpeg and has no say.)
playable()
{
    "$ffprobe" -v error -count_frames -show_entries stream=nb_read_frames \
        -of csv=p=0 "$1" > "$tmp/probe" 2> "$tmp/errors" || return 1
    in_file=$(tr -d , < "$tmp/probe")
    [ ! -s "$tmp/errors" ] || { cat "$tmp/errors"; return 1; }
    [ "${in_file:-0}" -gt 0 ] || { echo 'no frames'; return 1; }
    [ -z "$frames" ] || same "$in_file" "$frames"
}

# judge NAME COMMAND...: the two above, and what the command says
judge()
{
    judge_name=$1
    shift
    { prompt_end && "$@"; } >> "$tmp/log" 2>&1
    report $? "$judge_name" "$tmp/log"
}

# one step: seconds of attention over 32760 tokens
steps=$(source_of 'prompt=a cat:size=832x480:frames=81:steps=50:seed=7:device=cpu')
# one chunk: seconds of convolutions
chunks=$(source_of 'prompt=a cat:size=832x480:frames=17:steps=1:clips=0:seed=7:guidance=1:device=cpu')

for key in ctrl-c q; do
    press $key 0 'needs ' -f lavfi -i "$steps" -c:v $codec "$tmp/a.mp4"
    judge "$key when loaded" no_file "$tmp/a.mp4"
    press $key 0 'clip 1: seed' -f lavfi -i "$steps" -c:v $codec "$tmp/a.mp4"
    judge "$key at text" no_file "$tmp/a.mp4"
    press $key 1.5 'clip 1: seed' -f lavfi -i "$steps" -c:v $codec "$tmp/a.mp4"
    judge "$key in a step" no_file "$tmp/a.mp4"
    press $key 0.3 'Press [q]' -f lavfi -i "$chunks" -c:v $codec "$tmp/a.mp4"
    judge "$key while decoding, mp4" playable "$tmp/a.mp4"

    press $key 1.5 'clip 1: seed' -filter_complex "$steps" -c:v $codec "$tmp/a.mkv"
    judge "$key in a step, -filter_complex" true
    press $key 0.3 'decode ' -filter_complex "$chunks" -c:v $codec "$tmp/a.mkv"
    judge "$key while decoding, mkv, -filter_complex" playable "$tmp/a.mkv"
done

# An existing file survives an early Ctrl-C, -y or not.
if [ "$series" = 5.1 ]; then
    skip 'an existing file survives' '5.1 opens the output before the first frame'
else
    echo precious > "$tmp/b.mp4"
    press ctrl-c 0.5 'clip 1: seed' -f lavfi -i "$steps" -c:v $codec "$tmp/b.mp4"
    judge 'an existing file survives' same "$(cat "$tmp/b.mp4")" precious
fi

# The next clips do not begin.
press ctrl-c 0 'clip 2: seed' -f lavfi -i \
    "$(source_of "$small:clips=0")" -c:v $codec "$tmp/a.mkv"
judge 'clips without end' playable "$tmp/a.mkv"

# SIGTERM from a job manager, no terminal. The shell starts background jobs
# with SIGINT ignored, so that one needs the terminal above.
terminate()
{
    rm -f "$tmp/log"
    "$ffmpeg" -hide_banner -nostdin -y -f lavfi -i "$steps" -c:v $codec \
        "$tmp/a.mp4" 2> "$tmp/log" &
    pid=$!
    within $patience has 'clip 1: seed' "$tmp/log" && kill -TERM $pid &&
        within $patience gone $pid || kill -KILL $pid
    wait $pid
    same $? 255 && lacks 'step 50/50' "$tmp/log"
}
gone() { ! kill -0 "$1" 2> /dev/null; }
check 'SIGTERM in a step' terminate

# A pipe whose writer is there and writes nothing: who opens one for writing goes
# on when somebody reads.
mkfifo "$tmp/prompt"
silent_pipe()
{
    { exec 3> "$tmp/prompt" && : > "$tmp/read" && exec sleep $((3 * patience)); } &
    writer=$!
    "$ffmpeg" -hide_banner -nostdin -y -xerror "$@" -f null - > "$tmp/out" 2> "$tmp/log" &
    pid=$!
    within $patience [ -e "$tmp/read" ] && kill -TERM $pid && within $patience gone $pid
    ended=$?
    kill -KILL $writer $pid 2> /dev/null
    wait $writer
    wait $pid
    rm -f "$tmp/read"
    return $ended
}
for text in promptfile prompt=a:negative_promptfile; do
    silent=$(source_of "$text=$(quote "$tmp/prompt"):size=32x32:frames=5:steps=1")
    check "SIGTERM while a pipe is waited for, $text" silent_pipe -f lavfi -i "$silent"
    check "the same in -filter_complex" silent_pipe -filter_complex "$silent"
done

# Nothing pressed: pty itself gives the right status.
"$tools/pty" none 0 $patience zzz "$ffmpeg" -hide_banner -y -f lavfi \
    -i "$(source_of "$small")" -f null - > "$tmp/pty" 2> "$tmp/log"
same "$(cat "$tmp/pty")" 'exit 0 after -1.00 work -1.00 key 0' >> "$tmp/log" 2>&1
report $? 'no key' "$tmp/log"

finish
