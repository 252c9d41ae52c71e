#!/bin/sh
# make site: the documents as one small static site.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: site.sh FOLDER
#
# FOLDER/pages gets the documents as one folder, with links that fit, and
# FOLDER/html what mkdocs makes of them. Wants mkdocs and makeinfo; Debian's
# packages are mkdocs and texinfo.

set -eu

fail() { echo "site: $*" >&2; exit 1; }

[ $# -eq 1 ] || fail "usage: site.sh FOLDER"
for program in mkdocs makeinfo; do
    command -v $program > /dev/null || fail "$program is missing, a package of Debian"
done
root=$(cd "$(dirname "$0")/.." && pwd)
rm -rf "$1"
mkdir -p "$1/pages"
site=$(cd "$1" && pwd)
pages=$site/pages

# page FILE NAME: its links as the pages' folder has the files
page()
{
    sed -e 's,](\(\.\./\)*docs/,](,g' \
        -e 's,](\(\.\./\)*share/demo/README\.md,](demo-models.md,g' \
        -e 's,](\(\.\./\)*patches/README\.md,](patches.md,g' \
        -e 's,](\(\.\./\)*tests/fate/README\.md,](fate.md,g' \
        -e 's,](\(\.\./\)*tools/parity/README\.md,](parity.md,g' \
        -e 's,](\(\.\./\)*CHANGELOG\.md,](changelog.md,g' \
        -e 's,](\(\.\./\)*LICENSE),](licence.md),g' \
        -e 's,](\(\.\./\)*filters\.texi,](options.md,g' \
        "$root/$1" > "$pages/$2"
}

page README.md index.md
for name in recipes models live marks performance architecture contributing porting upstream; do
    page docs/$name.md $name.md
done
page CHANGELOG.md changelog.md
page share/demo/README.md demo-models.md
page patches/README.md patches.md
page tests/fate/README.md fate.md
page tools/parity/README.md parity.md
{ printf '# Licence\n\n'; sed 's/^/    /' "$root/LICENSE"; } > "$pages/licence.md"
cp -R "$root/docs/demo" "$pages/demo"

# The filters' manual is a part of FFmpeg's: what it refers to is not here.
{
    printf '\\input texinfo\n@documentencoding UTF-8\n@settitle options\n@node Top\n'
    sed -e '/^@anchor/d' -e 's/@ref{\([^},]*\)[^}]*}/@code{\1}/g' "$root/docs/filters.texi"
    printf '@bye\n'
} > "$site/options.texi"
makeinfo --html --no-split --no-headers --force -o "$site/options.html" \
    "$site/options.texi" 2> "$site/makeinfo.log" || fail "see $site/makeinfo.log"
{
    printf '# Options\n\n<div>\n'
    sed -n '/<body/,/<\/body>/{/<body/d;/<\/body>/d;/^$/d;p}' "$site/options.html"
    printf '</div>\n'
} > "$pages/options.md"

cp "$root/docs/site/mkdocs.yml" "$site/mkdocs.yml"
cd "$site"
mkdocs build --strict --quiet || fail "mkdocs found fault with the pages"
echo "site: $site/html/index.html"
