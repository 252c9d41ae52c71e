#!/bin/sh
# Slurm on this machine alone: a clip over the tasks of one step, one that is
# killed or stopped in it, and rows of wan-batch by the tasks of an array.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# MUNGE, a controller and a node run in a folder of their own, as this user, with
# a configuration of their own. More tasks than processors are allowed.

. "$SRC/tests/fate/common.sh"
PATH=$PATH:/usr/sbin:/sbin
for program in munged slurmctld slurmd srun sbatch sinfo; do
    command -v $program > /dev/null && continue
    skip 'Slurm' "there is no $program: tools/packages.sh cluster"
    finish
    exit
done
worker=$B/bin/wan-worker batch=$(cd "$SRC" && pwd)/tools/wan-batch
need "$ffmpeg" "$worker"

# ---- the cluster

host=$(hostname -s) port=$((20000 + $$ % 20000))
user=$(id -un)
mkdir "$tmp/state" "$tmp/spool" || exit 1
export SLURM_CONF="$tmp/slurm.conf"
cat > "$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$tmp/munge
StateSaveLocation=$tmp/state
SlurmdSpoolDir=$tmp/spool
SlurmctldPidFile=$tmp/slurmctld.pid
SlurmdPidFile=$tmp/slurmd.pid
SlurmctldLogFile=$tmp/slurmctld.log
SlurmdLogFile=$tmp/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES State=UP MaxTime=INFINITE
END
dd if=/dev/urandom of="$tmp/key" bs=64 count=1 2> /dev/null
chmod 400 "$tmp/key"
daemons=
trap 'scancel -u "$user" 2> /dev/null; kill $daemons 2> /dev/null; wait $daemons; rm -rf "$tmp"' EXIT
daemon() { "$@" > "$tmp/daemon.log" 2>&1 & daemons="$daemons $!"; }
daemon munged --foreground --force --key-file="$tmp/key" --socket="$tmp/munge" --pid-file="$tmp/munged.pid" \
    --log-file="$tmp/munged.log" --seed-file="$tmp/seed"
daemon slurmctld -D
daemon slurmd -D -N "$host"
up()
{
    i=0
    until [ "$(sinfo -h -o %T 2> /dev/null)" = idle ]; do
        [ $((i += 1)) -lt 600 ] || { tail -n 20 "$tmp"/*.log; return 1; }
        sleep 0.1
    done
}
check 'a cluster of one node' up
[ $failed -eq 0 ] || { finish; exit; }

# ---- a clip over the tasks of a step

graph() { source_of "prompt=a ball:frames=5:size=64x64:seed=1:device=cpu:threads=1:$1"; }
"$ffmpeg" -nostdin -v error -y -f lavfi -i "$(graph steps=2)" -f framemd5 "$tmp/alone.md5" 2> "$tmp/log"
report $? 'one process' "$tmp/log"

# The launcher's protocol is that of the MPI that the module is linked with.
case $(ldd "$B/lib/libwan-mpi.so" 2> /dev/null) in
*libmpich*) mpi=pmi2 ;;
*libmpi*)   mpi=pmix ;;
*)          mpi= ;;
esac
if [ -z "$mpi" ]; then
    skip 'a clip over the tasks of a step' 'no MPI was found by configure'
elif ! srun --mpi=list 2>&1 | grep -qw $mpi; then
    skip 'a clip over the tasks of a step' "this Slurm has no $mpi"
    mpi=
fi

# host_script OPTIONS ARGUMENTS...: what a file of --multi-prog can't quote is in
# a script.
host_script()
{
    host_graph=$(graph "$1" | sed 's/[\\"$`]/\\&/g')
    shift
    cat > "$tmp/host" <<END
#!/bin/sh
exec "$ffmpeg" -nostdin -hide_banner -nostats -xerror -y -f lavfi -i "$host_graph" $*
END
    chmod +x "$tmp/host"
    printf '0 %s/host\n1-2 %s --threads 1 --device cpu\n' "$tmp" "$worker" > "$tmp/clip.conf"
}
clip()
{
    host_script steps=2 "-f framemd5 $tmp/step.md5"
    srun -n 3 -K --mpi=$mpi --multi-prog "$tmp/clip.conf" < /dev/null > "$tmp/log" 2>&1 && grep -q 'clip over 3 processes on 1 machine' "$tmp/log" && cmp "$tmp/alone.md5" "$tmp/step.md5" ||
        { cat "$tmp/log"; return 1; }
}
frames() { "$ffprobe" -v error -count_frames -show_entries stream=nb_read_frames -of csv=p=0 "$1" 2> /dev/null; }
plays() { [ "$(frames "$1")" -gt 0 ] 2> /dev/null; }
workers() { pgrep -f "^$worker --threads 1 --device cpu"; }
# begin: clips without end, of which some frames are there
begin()
{
    rm -f "$tmp/clips.mkv"
    host_script clips=0:ahead=0:steps=50 "-c:v ffv1 -cluster_time_limit 1 -flush_packets 1 $tmp/clips.mkv"
    (exec srun -n 3 -K --mpi=$mpi --multi-prog "$tmp/clip.conf" < /dev/null > "$tmp/log" 2>&1) &
    launcher=$!
    while kill -0 $launcher 2> /dev/null && ! plays "$tmp/clips.mkv"; do sleep 0.1; done
    pid=$(workers | sed -n 2p)
    victim=$(tr '\0' '\n' < "/proc/$pid/environ" | sed -n 's/^SLURM_PROCID=//p')
}
over()
{
    i=0
    while kill -0 $launcher 2> /dev/null || workers > /dev/null; do
        if [ $((i += 1)) -gt 600 ]; then
            scancel -u "$user"
            kill -9 $(workers) $launcher
            cat "$tmp/log"
            return 1
        fi
        sleep 0.1
    done
}
who() { grep -q -e "rank $victim (process $pid on [^)]*) $1" -e "task $victim: $2" "$tmp/log" || { cat "$tmp/log"; return 1; }; }
if [ -n "$mpi" ]; then
    check "ffmpeg and two workers in one step, --mpi=$mpi: the same bits" clip
    begin
    kill -9 "$pid"
    check "rank $victim is killed, all end" over
    check 'who it was is said' who 'is gone' Killed
    check 'what there was of the clip can be played' plays "$tmp/clips.mkv"
    begin
    kill -STOP "$pid"
    check "rank $victim is stopped, all end" over
    check 'who it was is said' who 'gave no sign of life' none
    check 'what there was of the clip can be played' plays "$tmp/clips.mkv"
    begin
    kill -TERM $launcher
    check 'TERM at srun ends all' over
    check 'what there was of the clip can be played' plays "$tmp/clips.mkv"
fi

# ---- rows by the tasks of an array

{
    echo 'prompt,output,seed'
    for row in 1 2 3 4; do echo "a ball,clip-$row.mkv,$row"; done
} > "$tmp/table.csv"
array()     # FOLDER OPTION
{
    sbatch --wait --array=1-2 --output="$tmp/array-%a.log" --wrap "'$batch' '$tmp/table.csv' --out '$tmp/$1' $2 --wait \
        --set 'model=$tiny/wan-t2v' --set device=cpu --set threads=1 --set size=64x64 --set frames=5 --set steps=1 \
        --encode '-c:v ffv1' --ffmpeg '$ffmpeg'" || { cat "$tmp"/array-*.log; return 1; }
    [ "$(find "$tmp/$1" -maxdepth 1 -name 'clip-*.mkv' | wc -l)" -eq 4 ] && plays "$tmp/$1/clip-4.mkv"
}
if command -v python3 > /dev/null; then
    check 'an array of two tasks: who is free takes a row' array free ''
    check 'each with rows of its own' array own '--share array'
else
    skip 'wan-batch as an array' 'there is no python3'
fi

finish
