#!/bin/sh
# make live: the page, prompts from terminal and page, a window, what is asked
# for wrongly, and that nothing is left of it.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$tools/wire" "$tools/pty"
command -v python3 > /dev/null || {
    skip 'make live' 'there is no python3'
    finish
    exit
}
python=$(python3 -c 'import sys; print(sys.executable)')
script=$(cd "$SRC" && pwd)/tools/live.py
tiny_demo
mkdir -p "$tmp/demo/bin" "$tmp/left" && ln -s "$ffmpeg" "$tmp/demo/bin/ffmpeg"
unset DISPLAY WAYLAND_DISPLAY MODEL PROMPT LIVE
small=size=32x32:frames=9:steps=1
run=
trap 'exec 3>&-; [ -z "$run" ] || kill $run 2> /dev/null; wait; rm -rf "$tmp"' EXIT

# play [VARIABLE=VALUE...]: it runs, as $run, and reads what is written to 3
play()
{
    rm -f "$tmp/typed" "$tmp/said" && mkfifo "$tmp/typed" && exec 3<> "$tmp/typed"
    timeout --foreground $patience env B="$tmp/demo" TMPDIR="$tmp/left" "$@" \
        "$python" "$script" < "$tmp/typed" > "$tmp/said" 2>&1 3>&- &
    run=$!
}
# soon COMMAND...: it passes while that runs
soon()
{
    until "$@" > /dev/null 2>&1; do
        kill -0 $run 2> /dev/null || { echo "ended before: $*"; cat "$tmp/said"; return 1; }
        sleep 0.1
    done
}
# opened: it tells where its page is: $port
opened()
{
    soon grep -q '/ in a browser' "$tmp/said" || { cat "$tmp/said"; return 1; }
    port=$(sed -n 's,.*http://127.0.0.1:\([0-9]*\)/ in a browser.*,\1,p' "$tmp/said")
}
# ended STATUS: so it ends, by itself
ended()
{
    wait $run
    ended_status=$?
    run=
    same $ended_status "$1" && nothing_left || { cat "$tmp/said"; return 1; }
}
# interrupted: Ctrl-C; its exit status is 0
interrupted()
{
    kill -INT $run
    ended 0
}
nothing_left()
{
    same "$(ls "$tmp/left" | wc -l | tr -d ' ')" 0 || { ls "$tmp/left"; return 1; }
    ! grep -asl "$tmp/left" /proc/[0-9]*/cmdline
}

# get PATH UNTIL [HEADER]: the answer, until it holds that text, in $tmp/got
get()
{
    printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" "${3:-localhost:$port}" |
        "$tools/wire" connect $port "$2" > "$tmp/got"
}
# post TEXT UNTIL [HEADER]: as the page does with what was typed there
post()
{
    printf 'POST /prompt HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n%sContent-Length: %d\r\n\r\n%s' \
        $port "${3-}" "${#1}" "$1" | "$tools/wire" connect $port "$2" > "$tmp/got"
}
on_screen() { get /status.json '}' && grep -Fq "\"prompt\": \"$1\"" "$tmp/got"; }

# ------------------------------------------------------------------- the page

begun()
{
    play PROMPT='a cat' LIVE="page $small" && opened && get / '</html>\|</script>' > /dev/null
    has '<img src="/stream"' "$tmp/got" && soon on_screen 'a cat' &&
        has '"fps": [0-9.]+, "behind": [0-9.]+, "frames": [0-9]+, "repeated": [0-9]+' "$tmp/got"
}
typed() { echo 'a dog' >&3 && soon on_screen 'a dog'; }
posted() { post 'a bird' ' 204 ' && soon on_screen 'a bird'; }
# What a browser gets: pictures, each as it comes
pictures()
{
    get /stream none
    has '^Content-Type: multipart/x-mixed-replace; boundary=frame' "$tmp/got" > "$tmp/x" &&
        [ "$(grep -ac '^--frame' "$tmp/got")" -gt 2 ] &&
        good -f image2pipe -c:v mjpeg -i "$tmp/got" -frames:v 3 -f framemd5 "$tmp/md5" &&
        same "$(grep -c '^0,' "$tmp/md5")" 3
}
for_players()
{
    soon good -i "http://127.0.0.1:$port/live.m3u8" -frames:v 16 -f framemd5 "$tmp/md5" &&
        same "$(grep -c '^0,' "$tmp/md5")" 16
}
# Pages from elsewhere, names that lead out, texts that are none.
strangers()
{
    get /status.json ' 403 ' example.com && get /../prompt.txt ' 404 ' &&
        get /prompt.txt ' 404 ' && get /live9999999.m4s ' 404 ' &&
        post 'a fish' ' 403 ' 'Origin: http://example.com
' && post ' ' 'an empty prompt' && post "$(printf 'a \377')" 'not UTF-8' &&
        post "$(printf %5000s x | tr ' ' x)" 'characters; 4000 are the most' &&
        printf 'POST /prompt HTTP/1.0\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n' |
        "$tools/wire" connect $port ' 413 ' > "$tmp/got" && on_screen 'a bird'
}
# controls would reach the terminal of who runs it
plain() { printf 'a\033[2J\tfish\n' >&3 && soon on_screen 'a [2J fish'; }
taken()
{
    taken_port=$port first=$run
    rm -f "$tmp/other"
    B=$tmp/demo TMPDIR=$tmp/left LIVE="page port=$port" timeout $patience "$python" "$script" \
        < /dev/null > "$tmp/other" 2>&1
    same $? 1 && same "$(cat "$tmp/other")" "live: port=$taken_port: Address already in use"
}
check 'the page, and its first prompt' begun
check 'a prompt that is typed' typed
check 'a prompt from the page' posted
check 'the pictures' pictures
if have encoders libx264; then
    check 'HLS for players' for_players
else
    skip 'HLS for players' 'no libx264'
fi
check 'strangers' strangers
check 'what would move the cursor' plain
check 'a port that is taken' taken
check 'Ctrl-C: nothing is left' interrupted

# ----------------------------------------------------------- a causal model

causal()
{
    mkdir "$demo/causal" && ln -s "$tiny/self-forcing"/* "$demo/causal" || return 1
    for part in models_t5_umt5-xxl-enc-bf16.pth Wan2.1_VAE.pth google; do
        ln -s "$tiny/wan-t2v/$part" "$demo/causal" || return 1
    done
    play PROMPT='a cat' LIVE='page size=48x32:window=6' && opened && soon on_screen 'a cat' &&
        echo 'a dog' >&3 && soon on_screen 'a dog'
    causal_status=$?
    interrupted && [ $causal_status = 0 ]
}
check 'a causal demo model comes first' causal

# ------------------------------------------------- terminals, and what is none

terminal()
{
    B=$tmp/demo TMPDIR=$tmp/left TERM=xterm LIVE="page size=48x32:window=6" \
        "$tools/pty" ctrl-c 1 $patience ' s behind | ' "$python" "$script" > "$tmp/keys" 2> "$tmp/said"
    has '^exit 0 .* key 1$' "$tmp/keys" && nothing_left &&
        has "$(printf '\033')\\[24;1H" "$tmp/said" && has 'live: [0-9]+ frames' "$tmp/said"
}
begun_somewhere() { [ -s "$(echo "$tmp"/left/wan-live.*/live.m3u8)" ]; }
# no input, nobody who reads what it says; SIGTERM
none()
{
    B=$tmp/demo TMPDIR=$tmp/left LIVE="page size=48x32:window=6" \
        timeout $patience "$python" "$script" <&- >&- 2> "$tmp/said" &
    run=$!
    soon begun_somewhere && sleep 1
    kill -TERM $run
    ended 0 && lacks . "$tmp/said"
}
check 'a terminal' terminal
check 'no terminal at all' none

# ---------------------------------------------------------------- a window

# player COMMANDS: what stands in for one
player()
{
    printf '#!/bin/sh\n%s\n' "$1" > "$tmp/demo/bin/ffplay" && chmod +x "$tmp/demo/bin/ffplay"
}
watched()       # and closed
{
    player "head -c 200000 > '$tmp/seen.nut'"
    play DISPLAY=:99 LIVE="size=48x32:window=6" && ended 0 &&
        same "$(head -c 24 "$tmp/seen.nut")" 'nut/multimedia container' && lacks 'browser' "$tmp/said"
}
no_display()
{
    player 'echo "no display" >&2; exit 1'
    play LIVE="window size=48x32:window=6" && ended 1 &&
        same "$(grep -c '^live: .*ffplay can.t play it: no display; LIVE=page' "$tmp/said")" 1
}
check 'a window that is closed' watched
check 'a player that finds no display' no_display
rm "$tmp/demo/bin/ffplay"

# --------------------------------------------------------------- wrong wishes

# wrong STATUS LINE [VARIABLE=VALUE...]: it ends, and its last line says why
wrong()
{
    wrong_status=$1 wrong_line=$2
    shift 2
    play "$@" && exec 3>&- && ended "$wrong_status" &&
        tail -n 1 "$tmp/said" > "$tmp/last" && has "$wrong_line" "$tmp/last"
}
mkdir -p "$tmp/bare" && ln -s "$tmp/demo/bin" "$tmp/bare/bin"
# without NAME: an ffmpeg that has not that encoder
without()
{
    mkdir -p "$tmp/$1/bin" "$tmp/$1/share" && ln -s "$tmp/demo/share/libwan" "$tmp/$1/share" &&
        printf '#!/bin/sh\ncase "$2" in\n-encoders) "%s" "$@" | grep -v " %s " ;;\n*) exec "%s" "$@" ;;\nesac\n' \
            "$ffmpeg" "$1" "$ffmpeg" > "$tmp/$1/bin/ffmpeg" && chmod +x "$tmp/$1/bin/ffmpeg"
}
no_h264()
{
    without libx264 && play B="$tmp/libx264" LIVE="page size=48x32:window=6" && opened &&
        has 'no HLS for players' "$tmp/said" && soon get /stream image/jpeg
    no_h264_status=$?
    interrupted && [ $no_h264_status = 0 ]
}
no_jpeg() { without mjpeg && wrong 1 'no encoder mjpeg' B="$tmp/mjpeg" LIVE=page; }
check 'no libx264: the page alone' no_h264
check 'no JPEG' no_jpeg
check 'no ffmpeg' wrong 1 'No such file or directory: make ffmpeg-minimal' B="$tmp/left"
check 'no demo model' wrong 1 'no demo model in .*; MODEL=DIR' B="$tmp/bare"
check 'no such model' wrong 1 '/none: No such file or directory \(option model\)' MODEL="$tmp/none" LIVE=page
check 'an option that is none' wrong 1 'steps=0: must be from 1' LIVE='page steps=0'
check 'a word that is none' wrong 2 "LIVE: 'often' is none of" LIVE=often
check 'a window, and no player' wrong 1 'wants ffplay or mpv' LIVE=window PATH=/none
check 'an empty prompt' wrong 2 'PROMPT: an empty prompt' PROMPT=' '

finish
