#!/bin/sh
# wan-info --report: what it says of the machine, the build and a model, and
# that no folder's name is in it.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
info=$B/bin/wan-info
need "$info"

# says PATTERN: a line of the report
says() { grep -Eq -e "$1" "$tmp/report" || { cat "$tmp/report"; return 1; }; }

# told NAME STATUS ARGUMENT...: a report with that status and nothing beside it
told()
{
    told_name=$1 told_status=$2
    shift 2
    "$info" --report "$@" > "$tmp/report" 2> "$tmp/err"
    [ $? -eq "$told_status" ] && [ ! -s "$tmp/err" ]
    report $? "$told_name" "$tmp/report"
}

private="$tmp/My Name/secret models"
mkdir -p "$private"
cp -r "$tiny/wan-t2v" "$private/"
version=$(sed -n 's/^.define WAN_VERSION_M[AIJNORC]* *//p' "$SRC/wan/wan.h" | paste -sd.)

told 'the machine alone' 0
check 'the version' says "^libwan $version\$"
check 'the build' says '^  build         CUDA (yes|no), oneDNN (yes|no), .*[0-9]\.[0-9]'
check 'the system' says "^  system        $(uname -s) "
check 'the cores' says "^  cores         $(getconf _NPROCESSORS_ONLN)"
check 'the memory' says '^  memory        [0-9.]+ GB, [0-9.]+ GB to be had'
check 'the limits' says '^  limits        address space .*, files [0-9]+'
check 'an ffmpeg or none' says '^  ffmpeg        (ffmpeg version|none)'

WAN_MODEL="$private/wan-t2v" told 'a model' 0 "$private/wan-t2v"
check 'its parts' says '^ +[0-9]+ tensors, [0-9,]+ numbers: F32 '
check 'its files, by their names' says '^ +Wan2.1_VAE.pth$'
check 'what it needs' says '^  tokens '
check 'its precision' says '^  precision     (bf16|f32), '
check 'the environment' says '^  environment   WAN_MODEL=wan-t2v$'
check 'no folder is named' lacks 'secret|My Name' "$tmp/report"

rm "$private/wan-t2v/Wan2.1_VAE.pth"
told 'a model that is not whole' 0 "$private/wan-t2v"
check 'what is missing' says '^  error +wan-t2v: no VAE here'
check 'no folder is named there' lacks 'secret|My Name' "$tmp/report"
cd "$private" && told 'a relative path' 0 "../secret models/wan-t2v/config.json"
check 'what it is not' says '^  error +config.json: '
check 'no folder is named there either' lacks 'secret|My Name' "$tmp/report"

# another ffmpeg
mkdir "$tmp/bin"
cp "$info" "$tmp/bin"
printf '#!/bin/sh\ncase "$*" in *-version) echo ffmpeg version 12.3-own; echo more ;; *) echo " .. wan_t2v  |->V"; esac\n' > "$tmp/bin/ffmpeg"
chmod +x "$tmp/bin/ffmpeg"
info=$tmp/bin/wan-info
told 'an ffmpeg beside the program' 0
check 'its version' says '^  ffmpeg        ffmpeg version 12.3-own$'
check 'its filters' says "^  its filters   1 of libwan's\$"

finish
