# A tool's manual page: what a page of docs/man has by hand, and its --help.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# usage: awk -v version=V -v help=FILE -f man.awk docs/man/TOOL.1.in
#
# The line @HELP@ becomes the sections SYNOPSIS, DESCRIPTION and OPTIONS, out of
# what TOOL --help says: lines of usage, plain paragraphs, options (two blanks,
# then what is in the first 20 columns or ends the line; further lines deeper),
# and commands (two blanks, and the tool's or a sister's name).

function text(s)
{
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    return s ~ /^[.']/ ? "\\&" s : s
}

function section(name) { print ".SH " name }

# An option's words stand bold, its arguments as they are.
function option(s,   i, n, word, out, end)
{
    n = split(s, word, " ")
    for (i = 1; i <= n; i++) {
        end = match(word[i], /[=,]/) ? RSTART : length(word[i]) + 1
        if (word[i] ~ /^--/)
            word[i] = "\\fB" text(substr(word[i], 1, end - 1)) "\\fR" \
                      text(substr(word[i], end))
        else
            word[i] = text(word[i])
        out = out (i > 1 ? " " : "") word[i]
    }
    print ".TP\n" out
}

function leave_commands() { if (commands) { print ".EE"; commands = 0 } }

function from_help(   line, rest, usage, described, options)
{
    while ((getline line < help) > 0) {
        if (line ~ /^usage: /) {
            section("SYNOPSIS")
            print ".nf"
            usage = 1
        }
        if (usage) {
            if (line != "") {
                print text(substr(line, 8))
                continue
            }
            usage = 0
            print ".fi"
            continue
        }
        if (line == "") {
            blank = 1
            leave_commands()
        } else if (line ~ /^  wan-/) {
            if (!commands)
                print ".PP\n.EX"
            commands = 1
            print text(substr(line, 3))
        } else if (commands) {
            print text(substr(line, 3))
        } else if (line ~ /^  [^ ]/) {
            if (!options++)
                section("OPTIONS")
            line = substr(line, 3)
            rest = match(line, /   *[^ ]/) ? substr(line, RSTART + RLENGTH - 1) : ""
            option(rest == "" ? line : substr(line, 1, RSTART - 1))
            if (rest != "")
                print text(rest)
            blank = 0
        } else if (line ~ /^ /) {
            sub(/^ */, "", line)
            print text(line)
        } else {
            if (!described++)
                section("DESCRIPTION")
            else if (blank)
                print ".PP"
            print text(line)
            blank = 0
        }
    }
    leave_commands()
    if (!options)
        exit 1          # no help came
}

/^@HELP@$/ { from_help(); next }
{ gsub(/@VERSION@/, version); print }
