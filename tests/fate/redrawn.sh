# What the tests of wan_v2v share, with a text-to-video model and with VACE;
# sourced by them after common.sh.
#
# This file is part of libwan; see the licence in wan/wan.h.

# stamps FILE of framemd5: pts and duration of each frame; md5s: the hashes
stamps() { sed -n 's/^0, *-*[0-9]*, *\(-*[0-9]*\), *\([0-9]*\),.*/\1 \2/p' "$1"; }
md5s() { sed -n 's/^[0-9].*, *//p' "$1"; }

# redrawn INPUT FILTERS FILTER [OPTION...]: framemd5 of the input in $tmp/in, of
# what becomes of it in $tmp/md5
redrawn()
{
    redrawn_in=$1 redrawn_pre=$2 redrawn_vf=$3
    shift 3
    good -f lavfi -i "$redrawn_in" -vf "${redrawn_pre:-null}" -fps_mode passthrough \
        "$@" -f framemd5 "$tmp/in" &&
        good -f lavfi -i "$redrawn_in" -vf "${redrawn_pre:+$redrawn_pre,}$redrawn_vf" \
            -fps_mode passthrough "$@" -f framemd5 "$tmp/md5"
}

# refused NAME PATTERN ARGUMENT...: exit code of ffmpeg, and a line that says why
refused()
{
    refused_name=$1 refused_pattern=$2
    shift 2
    run -v error "$@" -f null -
    refused_status=$?
    [ $refused_status -ne 0 -o "${late-}" = 5.1 ] && [ $refused_status -ne 124 ] &&
        [ $refused_status -lt 129 -o $refused_status -ge 160 ] &&
        has "$refused_pattern" "$tmp/log" > "$tmp/why"
    report $? "$refused_name" "$tmp/log"
}

# seams FILE SIZE SHARED: of the metadata print of signalstats; the largest
# difference between frames where windows meet, and elsewhere
seams()
{
    sed -n 's/^lavfi.signalstats.YDIF=//p' "$1" | awk -v size="$2" -v shared="$3" '
        NR > 1 { n = (NR - 1) % (size - shared); k = NR > size - shared && n <= shared
                 if ($1 > most[k]) most[k] = $1; count++ }
        END { print count " pairs, at seams " most[1] ", elsewhere " most[0]
              exit !(count > 0 && most[1] <= most[0]) }'
}

# peak NAME: KiB that the last run had resident at most, with -benchmark; kept
peak() { sed -n 's/.*maxrss=\([0-9]*\).*/\1/p' "$tmp/log" > "$tmp/peak.$1"; }
peak_of() { cat "$tmp/peak.$1"; }
