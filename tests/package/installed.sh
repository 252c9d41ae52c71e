#!/bin/sh
# After apt install of what make deb made: the system's ffmpeg has the filters, and
# so has what uses its libavfilter, such as mpv and PyAV (python3-av).
#
# This file is part of libwan; see the licence in wan/wan.h.

FATE_BIN=/usr/bin
. "$SRC/tests/fate/common.sh"
if ! [ -x "$ffmpeg" ] || ! have filters wan_t2v; then
    skip 'the installed packages' 'the system has no ffmpeg with the filters: make deb, apt install'
    finish
    exit
fi
# The demo model that the packages install: nothing of this build is looked for.
unset LD_LIBRARY_PATH
clip='wan_t2v=prompt=a red ball bounces:size=64x64:frames=5:steps=1:seed=1'

version()       # the packages are of one make deb
{
    for package in ffmpeg libavfilter-dev libavcodec-dev; do
        dpkg-query -W -f '${Version}\n' $package 2> /dev/null || :
    done > "$tmp/versions"
    has '\+wan[0-9.]+$' "$tmp/versions" && same "$(sed 's/.*+wan//' "$tmp/versions" | uniq | wc -l)" 1
}
check 'the versions are ours' version
ours()
{
    for filter in wan_t2v wan_i2v wan_v2v; do
        have filters $filter || { echo "$filter is missing"; return 1; }
    done
    good -filter_complex "$clip" "$tmp/a.mp4" && same "$(frames "$tmp/a.mp4")" 5
}
check 'the filters, and a clip' ours
marked()
{
    /usr/bin/wan-info --marks "$tmp/a.mp4" > "$tmp/marks" && has 'tag AIGC' "$tmp/marks" &&
        has 'user data of the video' "$tmp/marks"
}
if [ -x /usr/bin/wan-info ]; then check 'the clip says what it is' marked
else skip 'the clip says what it is' 'no wan-tools'; fi
page() { man ffmpeg-filters 2> /dev/null | grep -q '^ *wan_t2v'; }
if command -v man > /dev/null && [ -e /usr/share/man/man1/ffmpeg-filters.1.gz ]; then
    check 'the manual has them' page
else skip 'the manual has them' 'no manual'; fi

played()
{
    timeout $patience /usr/bin/mpv --no-config --really-quiet --ao=null --vo=image \
        --vo-image-format=png --vo-image-outdir="$tmp/mpv" "av://lavfi:$clip" \
        > "$tmp/log" 2>&1 || { cat "$tmp/log"; return 1; }
    [ "$(ls "$tmp/mpv" | wc -l)" -ge 4 ] || { ls "$tmp/mpv"; cat "$tmp/log"; return 1; }
    same "$(size_of "$tmp/mpv/00000001.png")" 64x64
}
size_of()
{
    "$ffprobe" -v error -show_entries stream=width,height -of csv=s=x:p=0 "$1"
}
if [ -x /usr/bin/mpv ]; then check 'mpv writes its frames' played
else skip 'mpv writes its frames' 'no mpv'; fi

pyav()
{
    timeout $patience /usr/bin/python3 - "${clip#wan_t2v=}" > "$tmp/log" 2>&1 <<'PYTHON' || { cat "$tmp/log"; return 1; }
import sys
import av, av.filter
graph = av.filter.Graph()
source, sink = graph.add("wan_t2v", sys.argv[1]), graph.add("buffersink")
source.link_to(sink)
graph.configure()
frames = 0
while True:
    try:
        frame = graph.pull()
    except (EOFError, av.error.EOFError):
        break
    except (BlockingIOError, av.error.BlockingIOError):
        continue
    assert (frame.width, frame.height) == (64, 64), frame
    frames += 1
assert frames == 5, frames
PYTHON
}
if /usr/bin/python3 -c 'import av' 2> /dev/null; then check 'PyAV pulls its frames' pyav
else skip 'PyAV pulls its frames' 'no python3-av'; fi

finish
