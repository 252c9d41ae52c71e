#!/bin/sh
# The recipes: each command as it stands on the page. The site: it is made,
# and no link of it leads nowhere.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg"

# The demo models' places, with tiny ones that say themselves how small.
tiny_demo
for task in t2v i2v; do
    config=$tmp/demo/share/libwan/demo/$task/config.json
    sed 's/^{/{ "size": "32x32", "frames": 9, "steps": 2,/' "$config" > "$tmp/config"
    rm "$config"
    mv "$tmp/config" "$config"
done

# page_commands: the page's blocks of sh, one a line; a heading in between
page_commands()
{
    awk '/^## / { print "#" substr($0, 3) }
         /^```/ { if (inside && line != "") print line; inside = $0 == "```sh"; line = ""; next }
         inside { sub(/ *\\$/, " "); sub(/^ +/, " "); line = line $0 }' \
        "$SRC/docs/recipes.md"
}
written()       # the command's file, the last word of it
{
    sh -c "$1" < /dev/null > "$tmp/log" 2>&1 || { cat "$tmp/log"; return 1; }
    case $1 in
    ffplay*) ;;
    *) [ -s "$(printf '%s' "${1##* }" | sed 's/%02d/01/')" ] || { echo 'no file'; return 1; } ;;
    esac
}
PATH=$bin:$PATH SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy
export PATH SDL_VIDEODRIVER SDL_AUDIODRIVER
have filters drawtext && all=yes || all=no
page_commands > "$tmp/commands"
mkdir "$tmp/work"
cd "$tmp/work" || exit 1
section='' wants_all=no
while IFS= read -r line; do
    case $line in
    '#'*)
        section=${line#'# '}
        [ "$section" != 'With all of FFmpeg' ] || wants_all=yes ;;
    *)
        if [ $wants_all = yes ] && [ $all = no ]; then
            skip "$section: ${line##* }" 'a minimal ffmpeg'
        else
            recipe "$section: ${line##* }" written "$line"
        fi ;;
    esac
done < "$tmp/commands"
cd "$OLDPWD" || exit 1
check 'all blocks were seen' same "$(grep -c '^```sh' "$SRC/docs/recipes.md")" \
    "$(grep -vc '^#' "$tmp/commands")"

pictures()
{
    for picture in $(sed -n 's/.*](\(demo\/[a-z.]*\)).*/\1/p' "$SRC/docs/recipes.md"); do
        [ -s "$SRC/docs/$picture" ] || { echo "no docs/$picture"; return 1; }
    done
}
check 'all pictures are there' pictures

made() { sh "$SRC/tools/site.sh" "$tmp/site" && ls "$tmp/site/html/index.html"; }
listed()        # every document is in the site's list
{
    for page in "$SRC"/docs/*.md; do
        has ": ${page##*/}\$" "$SRC/docs/site/mkdocs.yml" > "$tmp/nav" ||
            { echo "${page##*/} is not listed"; return 1; }
    done
}
check 'the site has all documents' listed
options()
{
    for option in $(sed -n 's/^@item \([a-z0-9_]*\).*/\1/p' "$SRC/docs/filters.texi" | sort -u); do
        has "\\b$option\\b" "$tmp/site/html/options.html" > "$tmp/option" ||
            { echo "no $option"; return 1; }
    done
}
foreign() { ! grep -rhoE '(src|href)="https?://[^"]*\.(js|css|woff2?)' "$tmp/site/html"; }
if command -v mkdocs > /dev/null && command -v makeinfo > /dev/null; then
    check 'the site, without a broken link' made
    check 'it has every option' options
    check 'it fetches nothing from elsewhere' foreign
else
    skip 'the site' 'no mkdocs or makeinfo'
fi

finish
