#!/bin/sh
# A clip by one process, by two, and by two on machines of their own: speed, memory
# and bytes against the plan. Two machines are played by network namespaces with a
# link between them (link.c), which wants root. On a machine that does nothing else.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: ranks.sh BUILD [ROUNDS [LAYERS [WxH [FRAMES]]]]
#
#   ROUNDS    alternating runs of each; 3
#   LAYERS    of the transformer's 30; 6, since a step of all takes minutes
#   WxH       480x272, FRAMES 17
#
# LINK: its Gbit/s and ms, one way ["10 1"]. The checkpoint of random weights is
# kept in BUILD/bench (3.5 GB).
#
# One process has two threads, two have one each, so all compute on two cores.
# guided: each of two ranks makes one branch and they swap velocities. unguided:
# tokens are split, and each self-attention exchanges twice. Ratios above 1: ranks
# are faster. Of few layers guided ranks lose more than of all: the first block's
# self-attention is computed by both, which the plan's work shows.

# Called by itself, beside a rank or in a namespace.
case $1 in
--watch)        # FILE COMMAND...: the most anonymous memory it had, kB
    file=$2 most=0
    shift 2
    "$@" & pid=$!
    while now=$(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' /proc/$pid/status 2> /dev/null) && [ -n "$now" ]; do
        [ "$now" -le "$most" ] || echo $((most = now)) > "$file"
        sleep 0.1
    done
    wait $pid
    exit ;;
--agent)        # HOST COMMAND...: in place of ssh
    shift 2
    exec ip netns exec "$RANKS_FAR" unshare -u sh -c "hostname far; $*" ;;
esac

B=$(realpath "$1") rounds=${2:-3} layers=${3:-6} size=${4:-480x272} frames=${5:-17}
self=$(realpath "$0") stages=$B/tests/bench/stages worker=$B/bin/wan-worker link=$B/tests/bench/link
[ -x "$stages" ] && [ -x "$worker" ] && [ -x "$link" ] || { echo "ranks.sh: make bench-ranks" >&2; exit 1; }
[ -f "$B/lib/libwan-mpi.so" ] && command -v mpirun > /dev/null ||
    { echo "ranks.sh: this build has no MPI, or there is no mpirun" >&2; exit 1; }
ln -sf ../../lib/libwan-mpi.so "$B/tests/bench/" || exit 1     # it is looked for beside the program
set -- ${LINK:-10 1}
gbit=$1 ms=$2

tmp=$(mktemp -d "${TMPDIR:-/tmp}/wan-ranks.XXXXXX") || exit 1
near=wan-near-$$ RANKS_FAR=wan-far-$$ carrier=
end()
{
    [ -z "$carrier" ] || kill "$carrier" 2> /dev/null
    for ns in $near $RANKS_FAR; do
        [ ! -e /var/run/netns/$ns ] || ip netns del $ns
    done
    rm -rf "$tmp"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

model=$B/bench/t2v-1.3B-$layers-layers
if [ ! -d "$model" ]; then
    mkdir -p "$B/bench" && rm -rf "$model.part" &&
        "$B/bin/wan-random" "$model.part" --shapes t2v-1.3B --dit-layers "$layers" --text-layers 1 \
            --tokenizer "$(dirname "$self")/../golden/tokenizer/spiece.model" > /dev/null &&
        mv "$model.part" "$model" || exit 1
fi

# Open MPI: root in a container, two processes on two cores that nothing binds.
export RANKS_FAR OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none

# Each clip: WxH FRAMES STEPS THREADS GUIDANCE CHUNKS, to $tmp/out.
request() { echo "$1" "$2" "$3" "$threads" "$4" "$5"; }
one() { threads=2; "$stages" "$model" $(request "$@"); }
two()
{
    threads=1
    mpirun --mca btl self,vader -n 1 $watch_near "$stages" "$model" $(request "$@") : -n 1 $watch_far "$worker" --threads 1
}
apart()
{
    threads=1
    ip netns exec $near unshare -u sh -c 'hostname near; exec "$@"' sh \
        mpirun --mca plm_rsh_agent "sh $self --agent" --mca btl self,tcp --mca btl_tcp_if_include wan0 \
            --mca oob_tcp_if_include wan0 --host 10.77.0.1 -n 1 $watch_near "$stages" "$model" $(request "$@") : \
            --host 10.77.0.2 -n 1 $watch_far "$worker" --threads 1
}
run() { "$@" < /dev/null > "$tmp/out" 2> "$tmp/log" || { cat "$tmp/log" >&2; exit 1; }; }

# of STAGE: seconds of a unit but the first, or of the first where there is one
seconds() { awk -F'|' -v s="$1" '$2 ~ s { v = $6 + 0 ? $6 : $5 } END { print v + 0 }' "$tmp/out"; }
counted() { ip netns exec "$1" cat /sys/class/net/wan0/statistics/tx_bytes; }
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

ways="one two"
if ip netns add $near 2> "$tmp/log" && ip netns add $RANKS_FAR 2>> "$tmp/log"; then
    "$link" $near $RANKS_FAR $gbit $ms > "$tmp/up" 2> "$tmp/log" & carrier=$!
    until grep -q up "$tmp/up"; do
        kill -0 $carrier 2> /dev/null || break
        sleep 0.1
    done
    grep -q up "$tmp/up" && ways="one two apart"
fi
[ "$ways" = "one two apart" ] || { echo "no namespaces with a link between them:"; cat "$tmp/log"; }

echo "T2V-1.3B with $layers layers, $size, $frames frames; one: a process of two threads; two: of one thread each"
[ "$ways" = "one two" ] || echo "apart: on machines of their own, $gbit Gbit/s and $ms ms between them"

# ---- speed

run one "$size" 5 1 1 0                 # the page cache
for round in $(seq "$rounds"); do
    for guidance in 5 1; do
        for way in $ways; do
            run $way "$size" "$frames" 2 $guidance $((guidance > 1 ? 2 : 0))
            seconds steps >> "$tmp/steps.$guidance.$way"
            [ $guidance -eq 1 ] || seconds decode >> "$tmp/decode.$guidance.$way"
        done
    done
done
row()           # LABEL FILE
{
    for way in $ways; do
        median "$tmp/$2.$way"
    done | tr '\n' ' ' | awk -v label="$1" '{
        printf "| %-20s | %8.2f | %8.2f | %5.3f |", label, $1, $2, $2 ? $1 / $2 : 0
        if (NF > 2) printf " %8.2f | %5.3f |", $3, $3 ? $1 / $3 : 0
        print "" }'
}
echo
echo "| s, medians of $rounds      |      one |      two | ratio |    apart | ratio |"
echo "| --- | ---: | ---: | ---: | ---: | ---: |"
row "a guided step" steps.5
row "a step, unguided" steps.1
row "decoding 4 frames" decode.5

# ---- memory and bytes

planned() { "$B/bin/wan-info" "$model" --size "$size" --frames $1 --steps 1 --guidance $2 --ranks 2; }
[ "$ways" = "one two apart" ] || exit 0
echo
echo "memory and bytes of a whole clip of 5 frames in one step, unguided, apart:"
planned 5 1 > "$tmp/plan"
watch_near="sh $self --watch $tmp/near" watch_far="sh $self --watch $tmp/far"
before_near=$(counted $near) before_far=$(counted $RANKS_FAR)
run apart "$size" 5 1 1 5
for who in near far; do
    [ $who = near ] && { ns=$near before=$before_near name='the first'; } ||
        { ns=$RANKS_FAR before=$before_far name='each other'; }
    grep -A 1 "$name" "$tmp/plan" | tr '\n' ' ' | sed 's/the first/first/; s/each other/other/' |
        awk -v kb="$(cat "$tmp/$who")" -v sent=$(($(counted $ns) - before)) '{
            printf "  %s: %.3f GB of %.3f GB planned, %+.1f %%; sent %.4f GB of %.4f, %+.1f %%\n", $1,
                kb * 1024 / 1e9, $2, 100 * (kb * 1024 / 1e9 / $2 - 1), sent / 1e9, $10 + $16,
                100 * (sent / 1e9 / ($10 + $16) - 1) }'
done
