#!/usr/bin/env python3
#
# Write wan/html_entities.h: HTML5's named characters, from Python's own
# table, which is the one that the reference's text cleaning uses.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
#     tools/html_entities.py > wan/html_entities.h

from html.entities import html5

names = sorted(n[:-1] for n in html5 if n.endswith(';'))
legacy = [n for n in html5 if not n.endswith(';')]
assert all(html5[n] == html5[n + ';'] for n in legacy)
assert all(n.isascii() and n.isalnum() for n in names)

print(f'''/*
 * HTML5's named characters, sorted by name: made by tools/html_entities.py.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#define ENTITY_MAX {max(map(len, names))}       // longest name
#define LEGACY_MAX {max(map(len, legacy))}        // longest that needs no semicolon

static const struct Entity {{
    const char *name;
    int legacy;         // 1: also known without its semicolon
    int32_t c[2];       // one character or two
}} entities[] = {{''')
for n in names:
    c = ', '.join(f'0x{ord(c):04x}' for c in html5[n + ';'])
    print(f'    {{ "{n}", {int(n in legacy)}, {{ {c} }} }},')
print('};')
