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
# LINK: its Gbit/s and ms, one way ["10 1"]; of 0 ms the kernel plays it, which takes
# less of two cores than link.c, who reach 4 Gbit/s each way with that. PRECISION: the
# model's, as it chooses by itself else. OLD: another build with its
# tests/bench/stages, whose ranks run in turn with these. The checkpoint of random weights is
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
self=$(realpath "$0") link=$B/tests/bench/link
for program in "$link" "$B/tests/bench/exchange" "${OLD:-$B}/tests/bench/stages" "${OLD:-$B}/bin/wan-worker" \
               "$B/tests/bench/stages" "$B/bin/wan-worker"; do
    [ -x "$program" ] || { echo "ranks.sh: no $program: make bench-ranks" >&2; exit 1; }
done
[ -f "$B/lib/libwan-mpi.so" ] && command -v mpirun > /dev/null ||
    { echo "ranks.sh: this build has no MPI, or there is no mpirun" >&2; exit 1; }
for build in "$B" "${OLD:-$B}"; do      # it is looked for beside the program
    ln -sf ../../lib/libwan-mpi.so "$build/tests/bench/" || exit 1
done
precision=${PRECISION:+--precision=$PRECISION}
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

# The first of two ranks and the other one are commands in the variables host and
# other; what they print is in $tmp/out.
together() { mpirun --mca btl self,vader -n 1 $watch_near $host : -n 1 $watch_far $other; }
over_link()
{
    ip netns exec $near unshare -u sh -c 'hostname near; exec "$@"' sh \
        mpirun --mca plm_rsh_agent "sh $self --agent" --mca btl self,tcp --mca btl_tcp_if_include wan0 \
            --mca oob_tcp_if_include wan0 --host 10.77.0.1 -n 1 $watch_near $host : \
            --host 10.77.0.2 -n 1 $watch_far $other
}
run() { "$@" < /dev/null > "$tmp/out" 2> "$tmp/log" || { cat "$tmp/log" >&2; exit 1; }; }

# A clip: WxH FRAMES STEPS GUIDANCE CHUNKS.
stages() { host="$1/tests/bench/stages $precision $model $3 $4 $5 $2 $6 $7" other="$1/bin/wan-worker --threads 1"; }
one() { stages "$B" 2 "$@"; $host; }
two() { stages "$B" 1 "$@"; together; }
apart() { stages "$B" 1 "$@"; over_link; }
two_old() { stages "$OLD" 1 "$@"; together; }
apart_old() { stages "$OLD" 1 "$@"; over_link; }

# of STAGE: seconds of a unit but the first, or of the first where there is one
seconds() { awk -F'|' -v s="$1" '$2 ~ s { v = $6 + 0 ? $6 : $5 } END { print v + 0 }' "$tmp/out"; }
counted() { ip netns exec "$1" cat /sys/class/net/wan0/statistics/tx_bytes; }
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

wire()          # NAMESPACE ADDRESS: shape its end
{
    ip -n $1 link set lo up && ip -n $1 addr add $2/24 dev wan0 && ip -n $1 link set wan0 up &&
        tc -n $1 qdisc add dev wan0 root tbf rate ${gbit}gbit burst 2mb latency 20ms
}
if ip netns add $near 2> "$tmp/log" && ip netns add $RANKS_FAR 2>> "$tmp/log" && [ "$ms" = 0 ]; then
    { ip link add wan0 netns $near type veth peer name wan0 netns $RANKS_FAR &&
        wire $near 10.77.0.1 && wire $RANKS_FAR 10.77.0.2 && echo up > "$tmp/up"; } 2>> "$tmp/log"
elif [ -e /var/run/netns/$RANKS_FAR ]; then
    "$link" $near $RANKS_FAR $gbit $ms > "$tmp/up" 2> "$tmp/log" & carrier=$!
    until grep -q up "$tmp/up" 2> /dev/null; do
        kill -0 $carrier 2> /dev/null || break
        sleep 0.1
    done
fi
linked=$(cat "$tmp/up" 2> /dev/null)
ways="one two${OLD:+ two_old}${linked:+ apart${OLD:+ apart_old}}"

echo "T2V-1.3B with $layers layers, $size, $frames frames; one: a process of two threads; two: of one thread each"
[ -n "$linked" ] && echo "apart: on machines of their own, $gbit Gbit/s and $ms ms between them" ||
    { echo "no namespaces with a link between them:"; cat "$tmp/log"; }

# ---- exchanges

host="$B/tests/bench/exchange host" other=$B/tests/bench/exchange
for how in together ${linked:+over_link}; do
    run $how
    echo "exchanges, $how:"
    cat "$tmp/out"
done
fitted=$(sed -n 's/.*fitted: \([0-9.]*\) Gbit.s and \([0-9.]*\) ms.*/\1,\2/p' "$tmp/out")

# ---- speed

run one "$size" 5 1 1 0                 # the page cache
for round in $(seq "$rounds"); do
    for guidance in 5 1; do
        for way in $ways; do
            chunks=$((guidance > 1 && round == 1 ? 2 : 0))
            run $way "$size" "$frames" 1 $guidance $chunks
            seconds steps >> "$tmp/steps.$guidance.$way"
            [ $chunks -eq 0 ] || seconds decode >> "$tmp/decode.$way"
        done
    done
done
row()           # LABEL FILE: seconds, and how often they go into those of one
{
    for way in $ways; do
        median "$tmp/$2.$way"
    done | awk -v label="$1" 'NR == 1 { one = $1; printf "%-18s", label }
        { printf "%10.3f (%.3f)", $1, $1 ? one / $1 : 0 } END { print "" }'
}
echo "medians of $rounds, of decoding one run, s:"
echo $ways | awk '{ printf "%-18s", ""; for (i = 1; i <= NF; i++) printf "%18s", $i; print "" }'
row "a guided step" steps.5
row "a step, unguided" steps.1
row "decoding 4 frames" decode
[ -n "$linked" ] || exit 0

planned()       # FRAMES GUIDANCE [SPEED]
{
    "$B/bin/wan-info" "$model" $precision --size "$size" --frames $1 --steps 1 --guidance $2 --ranks 2 ${3:+--speed $3}
}
# Halves of one process's rate, and 10 GB/s of memory, which is little here.
for guidance in 5 1; do
    rate=$(planned "$frames" $guidance | awk -v s="$(median "$tmp/steps.$guidance.one")" \
        '$1 == "a" && $2 == "step" { print $3 / s / 2 }')
    echo "apart, predicted, guidance $guidance, $rate TFLOP/s each:"
    planned "$frames" $guidance "$rate,$fitted,10" | grep 'predicted'
done

# ---- memory and bytes

echo "a whole clip of 5 frames in one step, unguided, apart:"
planned 5 1 > "$tmp/plan"
watch_near="sh $self --watch $tmp/near" watch_far="sh $self --watch $tmp/far"
before_near=$(counted $near) before_far=$(counted $RANKS_FAR)
run apart "$size" 5 1 1 5
against()       # NAME NAMESPACE BEFORE kB
{
    sed 's/the first/first/; s/each other/other/' "$tmp/plan" | grep -A 2 "^  $1 " | tr '\n' ' ' |
        awk -v gb="$(awk "BEGIN { print $4 * 1024 / 1e9 }")" -v sent="$(awk "BEGIN { print ($(counted $2) - $3) / 1e9 }")" '{
            plan = $10 + $16 + $22
            printf "  %-5s %.3f GB of %.3f GB planned, %+.1f %%; sent %.4f GB of %.4f, %+.1f %%\n", $1, gb, $2,
                100 * (gb / $2 - 1), sent, plan, 100 * (sent / plan - 1) }'
}
against first $near "$before_near" "$(cat "$tmp/near")"
against other $RANKS_FAR "$before_far" "$(cat "$tmp/far")"
