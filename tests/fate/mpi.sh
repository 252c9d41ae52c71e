#!/bin/sh
# One clip over several processes of an MPI launcher: the same bits, and what
# becomes of it when one dies, is stopped, or was started wrongly.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# KILLS: how often a worker is killed [2]. MPIRUN: the launcher [mpirun], that of
# Open MPI or of MPICH, as the module in B.

. "$SRC/tests/fate/common.sh"
worker=$B/bin/wan-worker
mpirun=${MPIRUN:-mpirun}
need "$ffmpeg" "$worker"

alone() { env -u OMPI_COMM_WORLD_SIZE -u PMI_SIZE -u PMIX_RANK -u PMI_RANK "$@"; }
alone "$worker" 2> "$tmp/log"
[ $? -eq 1 ] && grep -q '^wan-worker: no MPI launcher' "$tmp/log" && [ "$(wc -l < "$tmp/log")" -eq 1 ]
report $? 'a worker without a launcher' "$tmp/log"
OMPI_COMM_WORLD_SIZE=4 "$worker" --threads many 2> "$tmp/log"
[ $? -eq 1 ]
report $? 'an option that is none' "$tmp/log"

if [ ! -f "$B/lib/libwan-mpi.so" ] || ! command -v "$mpirun" > /dev/null; then
    OMPI_COMM_WORLD_SIZE=4 "$worker" 2> "$tmp/log"
    [ $? -eq 1 ] && grep -q "^wan-worker: a launcher started 4 processes, but this build can't" "$tmp/log"
    report $? 'a build without MPI says so' "$tmp/log"
    skip 'a clip over several processes' 'no MPI was found by configure'
    finish
    exit
fi

# Open MPI refuses to run as root, which containers of tests are; more processes
# than cores, and none held to one core. Nothing goes over a network.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl=self,vader
# Time for ffmpeg to end its file when the launcher ends all.
export OMPI_MCA_odls_base_sigkill_timeout=5
# MPICH's kills all at once, and is kept from ffmpeg.
shield=
if "$mpirun" --version 2> /dev/null | grep -q HYDRA; then shield='setsid -fw'; fi

# The others read what the launcher's standard input is.
graph() { source_of "prompt=a ball:frames=5:size=64x64:seed=1:device=cpu:threads=1:$1" "${2-}"; }
# by OUT PROCESSES ARGUMENT...: framemd5 of what ffmpeg makes with these
by()
{
    by_out=$1 by_n=$2
    shift 2
    set -- "$ffmpeg" -nostdin -hide_banner -nostats -xerror -y "$@" -f framemd5 "$by_out"
    [ "$by_n" -eq 1 ] || set -- "$mpirun" -n 1 "$@" : -n $((by_n - 1)) "$worker"
    "$@" < /dev/null 2> "$tmp/log"
}
# clip OUT PROCESSES OPTIONS [FOLDER]
clip() { clip_out=$1 clip_n=$2; shift 2; by "$clip_out" "$clip_n" -f lavfi -i "$(graph "$@")"; }
same() { clip "$tmp/$1.md5" "$1" "$2" "${3-}" && cmp "$tmp/1.md5" "$tmp/$1.md5" || { cat "$tmp/log"; return 1; }; }

# ---- the same bits

check 'one process' clip "$tmp/1.md5" 1 steps=2
for n in 2 3 4; do
    check "$n processes: the same bits" same $n steps=2
done
check 'it says how many' grep -q 'clip over 4 processes on 1 machine' "$tmp/log"

# together NAME FRAMES ARGUMENT...: so many frames, by two and three processes those by
# one, of which none is made alone
together()
{
    together_name=$1 together_frames=$2
    shift 2
    for n in 1 2 3; do
        by "$tmp/$together_name.$n" $n "$@" &&
            [ "$(grep -c '^0,' "$tmp/$together_name.$n")" -eq "$together_frames" ] &&
            cmp "$tmp/$together_name.1" "$tmp/$together_name.$n" &&
            { [ $n -eq 1 ] || grep -q "clip over $n processes" "$tmp/log"; } &&
            ! grep -e 'made alone' -e 'goes on alone' "$tmp/log" || { cat "$tmp/log"; return 1; }
    done
}
input='testsrc2=s=64x64:r=10,trim=end_frame=8'
asked="prompt=a ball:frames=5:seed=1:device=cpu:threads=1"
rest=$(quote "$tiny/wan-t2v")
rest=text_encoder=$rest:tokenizer=$rest:vae=$rest
vace=model=$(quote "$tiny/wan-vace"):$rest
check 'a video drawn again, two windows: the same bits' together v2v 8 -f lavfi -i "$input" \
    -vf "wan_v2v=model=$(quote "$tiny/wan-t2v"):$asked:steps=4:strength=0.5"
check 'with VACE: the same bits' together vace 8 -f lavfi -i "$input" -vf "wan_v2v=$vace:$asked:steps=2"
"$ffmpeg" -nostdin -v error -y -f lavfi -i testsrc2=s=40x64 -frames:v 1 "$tmp/picture.png"
check 'with VACE from a picture: the same bits' together picture 5 -f lavfi \
    -i "wan_t2v=$vace:$asked:steps=2:size=64x64:reference=$(quote "$tmp/picture.png")"


# Causal videos, whatever prompts come while they are made: two come in the first
# block and the second of a scene without end, which is cut short in its fifth.
trained="model=$(quote "$tiny/wan-t2v"):prompt=a cat:size=48x32:seed=5:device=cpu:threads=1:causal=1:preset=self-forcing"
scene() { printf %s "wan_t2v=$trained:clips=0:ahead=0:window=6:sink=1:switch=$1,sendcmd=c='0.1 wan_t2v prompt dog; 0.9 wan_t2v prompt cow'"; }
check 'a causal clip: the same bits' together blocks 33 -f lavfi -i "wan_t2v=$trained:frames=33:window=6:sink=1"
check 'frame by frame' together single 21 -f lavfi -i "wan_t2v=$trained:frames=21:block=1:window=4:sink=1:positions=window"
check 'without end, prompts change' together plain 50 -f lavfi -i "$(scene plain)" -frames:v 50
check 'and what is held is seen again' together recache 50 -f lavfi -i "$(scene recache)" -frames:v 50
check 'a prompt makes other frames' eval '! cmp -s "$tmp/plain.1" "$tmp/recache.1"'
check 'it goes on from a clip' together extended 32 -f lavfi -i "testsrc2=s=48x32:r=16,format=yuv420p,trim=end_frame=24" \
    -vf "wan_i2v=$trained:mode=extend:frames=9:window=9"

# Two machines, played by one with two names: what goes between them goes over TCP
# and in pieces, of which a clip of this size has some.
cat > "$tmp/agent" <<'END'
#!/bin/sh
# in place of ssh: HOST COMMAND...
shift
exec unshare -u sh -c "hostname far; $*"
END
chmod +x "$tmp/agent"
far()           # OUT PROCESSES: half of them on the other machine
{
    set -- "$1" "$2" "$ffmpeg" -nostdin -hide_banner -nostats -xerror -y -f lavfi -i "$(graph steps=1:size=256x256)" -f framemd5 "$1"
    if [ "$2" -eq 1 ]; then
        shift 2
        "$@" < /dev/null 2> "$tmp/log"
        return
    fi
    far_n=$2
    shift 2
    "$mpirun" --mca plm_rsh_agent "$tmp/agent" --mca btl self,tcp --mca btl_tcp_if_include lo --mca oob_tcp_if_include lo \
        --host 127.0.0.1 -n 1 "$@" : --host 127.0.0.2:$((far_n - 1)) -n $((far_n - 1)) "$worker" < /dev/null 2> "$tmp/log"
}
apart()
{
    far "$tmp/far.1" 1 && far "$tmp/far.2" 2 && far "$tmp/far.3" 3 && cmp "$tmp/far.1" "$tmp/far.2" &&
        cmp "$tmp/far.1" "$tmp/far.3" && grep -q 'clip over 3 processes on 2 machines' "$tmp/log" ||
        { cat "$tmp/log"; return 1; }
}
if [ -z "$shield" ] && unshare -u true 2> /dev/null; then
    check 'two machines: the same bits' apart
else
    skip 'two machines: the same bits' "no second name can be had here, or it is MPICH's launcher"
fi

# ---- cut short: all exit statuses are 0

cut() { "$mpirun" -n 1 "$ffmpeg" -nostdin -xerror -f lavfi -i "$(graph clips=0:ahead=0:steps=3)" "$@" -f null - : -n 2 "$worker"; }
check 'a clip is cut short by -frames' cut -frames:v 7
check 'by -t' cut -t 0.4
# ---- started wrongly

refused()       # PATTERN COMMAND...
{
    refused_pattern=$1
    shift
    "$@" < /dev/null > "$tmp/log" 2>&1 && return 1
    grep -q "$refused_pattern" "$tmp/log" || { cat "$tmp/log"; return 1; }
}
check 'workers without an ffmpeg' refused 'rank 0 is a wan-worker' "$mpirun" -n 2 "$worker"
check 'two ffmpegs' refused 'rank 1 on .* is not a wan-worker' "$mpirun" -n 2 "$ffmpeg" -nostdin -f lavfi \
    -i "$(graph steps=1)" -f null -
few() { "$mpirun" -n 1 "$ffmpeg" -nostdin -xerror -f lavfi -i "$(graph steps=1:frames=1:size=16x16)" -f null - : -n 3 "$worker"; }
check 'more processes than tokens' refused '1 tokens, too few for 4 processes' few
cp -r "$tiny/wan-t2v" "$tmp/model"
mkdir "$tmp/here" "$tmp/there"
ln -s "$tmp/model" "$tmp/here/model"
cp -r "$tmp/model" "$tmp/there/model"
# another number at the end of the worker's file
size=$(wc -c < "$tmp/there/model/diffusion_pytorch_model.safetensors")
printf '\101' | dd of="$tmp/there/model/diffusion_pytorch_model.safetensors" bs=1 seek=$((size - 2)) conv=notrunc 2> /dev/null
# the same relative path, of another folder
cat > "$tmp/elsewhere" <<END
#!/bin/sh
# a machine on which that path is another file
exec unshare -m sh -c 'mount --bind "$tmp/there/model" "$tmp/model" && exec "$worker"'
END
chmod +x "$tmp/elsewhere"
other() { "$mpirun" -n 1 "$ffmpeg" -nostdin -xerror -f lavfi -i "wan_t2v=model=$tmp/model:prompt=x:frames=5:size=64x64:steps=1:device=cpu" -f null - : -n 1 "$tmp/elsewhere"; }
if unshare -m true 2> /dev/null; then
    check 'other weights' refused 'rank 1 .* has other weights than rank 0' other
else
    skip 'other weights' 'no namespace of mounts can be made here'
fi
gone() { "$mpirun" -n 1 "$ffmpeg" -nostdin -xerror -f lavfi -i "wan_t2v=model=$tmp/model:prompt=x:frames=5:size=64x64:steps=1:device=cpu" -f null - : -n 1 "$tmp/without"; }
cat > "$tmp/without" <<END
#!/bin/sh
exec unshare -m sh -c 'mount -t tmpfs none "$tmp/model" && exec "$worker"'
END
chmod +x "$tmp/without"
if unshare -m true 2> /dev/null; then
    check 'no model there' refused 'rank 1 .* failed: .*model' gone
else
    skip 'no model there' 'no namespace of mounts can be made here'
fi

# ---- killed, stopped

# its processes, not the launcher that has their command lines in its own
workers() { pgrep -f "^$worker --threads 1 --device cpu"; }
ffmpegs() { pgrep -f "^$ffmpeg .*$tmp/"; }
plays() { [ "$(frames "$1" 2> /dev/null)" -gt 0 ] 2> /dev/null; }
# start OUT [SOURCE]: clips without end, of which OUT has frames; $launcher. Each is
# on the disk when it is there, however ffmpeg ends. MPICH's launcher writes to
# standard output.
start()
{
    start_source=${2-$(graph clips=0:ahead=0:steps=50)}
    : > "$tmp/log"              # not the last one's
    rm -f "$1"
    "$mpirun" -n 1 $shield "$ffmpeg" -nostdin -hide_banner -y -f lavfi -i "$start_source" \
        -c:v ffv1 -cluster_time_limit 1 -flush_packets 1 "$1" : -n 3 "$worker" --threads 1 --device cpu < /dev/null > "$tmp/log" 2>&1 &
    launcher=$!
    while kill -0 $launcher 2> /dev/null && ! plays "$1"; do sleep 0.1; done
    shm=$(for p in $(workers); do grep -o '/dev/shm/vader_segment[^ ]*' "/proc/$p/maps"; done 2> /dev/null | sort -u)
}
# none of them is left
over()
{
    i=0
    while workers > /dev/null || ffmpegs > /dev/null || kill -0 $launcher 2> /dev/null; do
        if [ $((i += 1)) -gt 600 ]; then
            kill -9 $(workers) $(ffmpegs) $launcher
            return 1
        fi
        sleep 0.1
    done
}
# what there was while it ran
freed() { for f in $shm; do [ ! -e "$f" ] || { echo "$f"; return 1; }; done; }
# by the launcher, whose lines are folded, or by one of ours; MPICH's kills all others
# in the same moment, and names the lowest of them
who()
{
    [ -z "$shield" ] || ! grep -q 'is gone, as others are' "$tmp/log" || return 0
    tr '\n' ' ' < "$tmp/log" | grep -Eq "rank $victim with PID [0-9]+ .*signal 9" ||
        grep -q -e "rank $victim (process $pid on [^)]*) is gone" -e "PID $pid RUNNING AT" "$tmp/log"
}
# all of our lines that name a rank name that one, but where a launcher ended others
# in the same moment
alone_named()
{
    grep 'rank [0-9]* (process' "$tmp/log" | grep -v -e "rank $victim (process $pid on [^)]*) $1" -e 'gone, as others are' && return 1
    true
}
# a worker, anywhere in a step or between two chunks: $pid, $victim
choose()
{
    sleep 0.$(($1 * 37 % 100))
    pid=$(workers | sed -n "$(($1 % 3 + 1))p")
    victim=$(tr '\0' '\n' < /proc/$pid/environ | sed -n 's/^OMPI_COMM_WORLD_RANK=//p; s/^PMI_RANK=//p')
}
k=0
while [ $((k += 1)) -le "${KILLS:-2}" ]; do
    start "$tmp/killed.mkv"
    choose $k
    kill -9 "$pid"
    over
    report $? "rank $victim is killed, all end ($k)" "$tmp/log"
    wait $launcher 2> /dev/null
    check 'who it was is said' who
    check 'and nobody else' alone_named 'is gone'
    check 'what there was of the clip can be played' plays "$tmp/killed.mkv"
    check 'no shared memory is left' freed
done
start "$tmp/scene.mkv" "wan_t2v=$trained:clips=0:ahead=0:window=6"
choose 1
kill -9 "$pid"
over
report $? "rank $victim of a scene without end is killed, all end" "$tmp/log"
wait $launcher 2> /dev/null
check 'who it was is said' who
check 'what there was of the scene can be played' plays "$tmp/scene.mkv"
start "$tmp/stopped.mkv"
kill -INT "$(pgrep -f "^$ffmpeg.*$tmp/stopped.mkv")"
over
report $? 'Ctrl-C at ffmpeg ends all' "$tmp/log"
wait $launcher 2> /dev/null
check 'no shared memory is left' freed

# ---- one that hangs: it is stopped, and goes on when the launcher ends all

OMPI_MCA_odls_base_sigkill_timeout=1
start "$tmp/hung.mkv"
choose 1
kill -STOP "$pid"
over
report $? "rank $victim is stopped, all end" "$tmp/log"
wait $launcher 2> /dev/null
check 'who it was is said' grep -q "rank $victim (process $pid on [^)]*) gave no sign of life for 15 s: it is stopped" "$tmp/log"
check 'and nobody else' alone_named 'gave no sign of life'
check 'what there was of the clip can be played' plays "$tmp/hung.mkv"
start "$tmp/hung.mkv"
choose 2
kill -STOP "$pid"
kill -INT "$(pgrep -f "^$ffmpeg.*$tmp/hung.mkv")"
over
report $? 'beside one that is stopped Ctrl-C at ffmpeg ends all' "$tmp/log"
wait $launcher 2> /dev/null
check 'before its silence is noticed' alone_named 'nothing'
check 'what there was of the clip can be played' plays "$tmp/hung.mkv"

finish
