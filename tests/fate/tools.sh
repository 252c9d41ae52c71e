#!/bin/sh
# The command line tools: an option that --help names is known, and by its
# whole name alone.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"

# refuses TOOL OPTION: it, and not what comes behind it, is unknown
refuses()
{
    "$1" "$2" --not-an-option --not-an-option > "$tmp/out" 2> "$tmp/err" < /dev/null
    [ $? -eq 2 ] && grep -Fq -e ": $2 is not known" "$tmp/err"
}

options_of()
{
    "$1" --help | sed 's/wan-[a-z]* --[a-z]*//g' | grep -oE -e '(^|[^a-z-])--[a-z0-9][a-z0-9-]*' | sed 's/^[^-]*//' |
        sort -u > "$tmp/options"
    [ -s "$tmp/options" ]
}

known()
{
    options_of "$1" || return 1
    while read -r option; do
        ! refuses "$1" "$option" || { cat "$tmp/err"; return 1; }
    done < "$tmp/options"
}

whole()
{
    options_of "$1" || return 1
    sed 's/.$//' "$tmp/options" | grep -vxF -f "$tmp/options" > "$tmp/short"
    while read -r option; do
        refuses "$1" "$option" && refuses "$1" "$option=1" ||
            { echo "$option"; cat "$tmp/err"; return 1; }
    done < "$tmp/short"
}

for tool in bench convert info parity random; do
    need "$B/bin/wan-$tool"
    check "wan-$tool knows what its help names" known "$B/bin/wan-$tool"
    check "wan-$tool wants whole names" whole "$B/bin/wan-$tool"
done

# ------------------------------------------------------------------ precision

info=$B/bin/wan-info
# planned LINE OPTION...: what wan-info says of a precision
planned()
{
    planned_line=$1
    shift
    "$info" --shapes t2v-1.3B "$@" > "$tmp/info" 2> "$tmp/err" &&
        has "^  precision     $planned_line\$" "$tmp/info"
}
check 'the default' planned '(bf16, which|f32, as) this processor .*' --device cpu
check 'f32' planned 'f32, as option precision says' --precision f32
check 'f32 of device ref' planned 'f32, as device ref has no other' --device ref
for p in bf16 int8; do
    check "$p" planned "$p(, as option precision says| works, but slower than f32.*)" --precision $p --device cpu
done

# refused STATUS LINE OPTION...: one line on standard error, nothing else
refused()
{
    refused_status=$1 refused_line=$2
    shift 2
    "$info" --shapes t2v-1.3B "$@" > "$tmp/info" 2> "$tmp/err"
    same $? "$refused_status" && [ ! -s "$tmp/info" ] &&
        same "$(cat "$tmp/err")" "wan-info: $refused_line"
}
check 'a precision that is none' refused 2 \
    '--precision f16: auto, f32, bf16 or int8 can be; see wan-info --help' --precision f16
check 'one that the device has not' refused 1 \
    'option precision: bf16; device ref of this build has f32' --precision bf16 --device ref
check 'one as a device' refused 1 \
    "device 'cpu-bf16': use device=cpu with precision=bf16" --device cpu-bf16

# -------------------------------------------------------------------- the bench

# Of each number format that this processor multiplies: a table of some rows.
rates()
{
    "$checkop" --bench all 4 > "$tmp/rates" || return 1
    for p in bf16 int8; do
        "$info" --shapes t2v-1.3B --device cpu --precision $p | grep -q "^  precision     $p, as" && echo cpu-$p
    done > "$tmp/wanted"
    same "$(sed -n 's/^\(cpu[a-z0-9-]*\), [0-9]* threads; .*/\1/p' "$tmp/rates" | tr '\n' ' ')" \
        "cpu $(tr '\n' ' ' < "$tmp/wanted")" &&
        same "$(grep -c '^  linear .* GFLOP/s ' "$tmp/rates")" $((15 * (1 + $(wc -l < "$tmp/wanted"))))
}
checkop=$B/tests/checkop/checkop
need "$checkop"
check 'the bench has all that the processor multiplies' rates

finish
