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

finish
