#!/bin/sh
# wan-batch: each row once, whoever renders it and whoever is killed; bad rows;
# going on.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
# 200 rows are rendered by a stand-in that takes no time; ffmpeg renders some.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg"
command -v python3 > /dev/null || {
    skip 'wan-batch' 'there is no python3'
    finish
    exit
}
batch=$(cd "$SRC" && pwd)/tools/wan-batch

# the stand-in: the result half, then whole; slow enough to be killed
cat > "$tmp/standin" <<'END'
#!/bin/sh
for last; do :; done
echo half > "$last"
sleep 0.05
echo "whole of $$ at $(date +%s%N)" > "$last"      # numbers come again
END
chmod +x "$tmp/standin"

# ---- 200 rows, four workers, two of them killed

{
    echo 'prompt,output,seed'
    i=0
    while [ $((i += 1)) -le 200 ]; do echo "\"a ball, number $i\",clip-$i.mp4,$i"; done
} > "$tmp/table.csv"
mkdir "$tmp/out"
pids=
for w in 1 2 3 4; do
    "$batch" "$tmp/table.csv" --out "$tmp/out" --ffmpeg "$tmp/standin" --wait 2> "$tmp/worker$w.log" &
    pids="$pids $!"
done
results() { find "$tmp/out" -maxdepth 1 -name 'clip-*.mp4' | wc -l; }
killed=0
for pid in $pids; do
    [ $killed -lt 2 ] || break
    killed=$((killed + 1))
    while kill -0 "$pid" 2> /dev/null && [ "$(results)" -lt $((killed * 30)) ]; do sleep 0.1; done
    kill -9 "$pid"
done
wait $pids 2> /dev/null
whole() { [ "$(results)" -eq 200 ] && [ "$(cat "$tmp/out"/clip-*.mp4 | grep -c '^whole of')" -eq 200 ]; }
check '200 rows by 4 workers, 2 of them killed' whole
once() { [ "$(cat "$tmp/out"/clip-*.mp4 | sort -u | wc -l)" -eq 200 ]; }
check 'each by a process of its own' once
alone() { [ -z "$(find "$tmp/out" -name '*part*')" ]; }
check 'nothing half written is left' alone
again() { "$batch" "$tmp/table.csv" --out "$tmp/out" --ffmpeg false 2> "$tmp/log"; }
check 'run again it renders nothing' again
check 'and says so' grep -q '^wan-batch: 200 of 200 rows done$' "$tmp/log"

# ---- by array index

head -n 21 "$tmp/table.csv" > "$tmp/short.csv"
array()
{
    for task in 5 6 7; do
        SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_MIN=5 SLURM_ARRAY_TASK_COUNT=3 \
            "$batch" "$tmp/short.csv" --out "$tmp/array" --share array --ffmpeg "$tmp/standin" || return
    done
    [ "$(find "$tmp/array" -name 'clip-*.mp4' | wc -l)" -eq 20 ]
}
check 'an array of three tasks' array
task()      # ID MIN MAX STEP COUNT FOLDER
{
    SLURM_ARRAY_TASK_ID=$1 SLURM_ARRAY_TASK_MIN=$2 SLURM_ARRAY_TASK_MAX=$3 SLURM_ARRAY_TASK_STEP=$4 SLURM_ARRAY_TASK_COUNT=$5 \
        "$batch" "$tmp/short.csv" --out "$tmp/$6" --share array --ffmpeg "$tmp/standin"
}
steps() { task 1 1 3 2 2 steps && task 3 1 3 2 2 steps && [ "$(find "$tmp/steps" -name 'clip-*.mp4' | wc -l)" -eq 20 ]; }
check 'an array with steps' steps
list() { ! task 3 1 7 1 3 list 2> "$tmp/log" && grep -q 'a list of tasks has no shares' "$tmp/log" && [ ! -d "$tmp/list" ]; }
check 'an array that is a list is refused' list
row() { "$batch" "$tmp/short.csv" --out "$tmp/one" --row 3 --ffmpeg "$tmp/standin" && [ -f "$tmp/one/clip-3.mp4" ]; }
check 'one row' row

# ---- real clips, and rows that can't be

cat > "$tmp/mixed.jsonl" <<END
{"prompt": "it's 100% \\\\ a 'ball': \\u03b1, [x];", "seed": 3, "output": "first.mkv"}
{"prompt": "no such option", "colour": "red"}
{"seed": 4}
not JSON
{"prompt": "elsewhere", "output": "../elsewhere.mp4"}
{"prompt": "twice", "output": "0001.mkv"}
{"prompt": "its name again", "output": "0001.mkv"}
{"prompt": "a list", "seed": [1]}
{"prompt": "no model", "model": "$tmp/nothing", "output": "sub/folder.mkv"}
END
"$batch" "$tmp/mixed.jsonl" --out "$tmp/mixed" --set "model=$tiny/wan-t2v" --set device=cpu --set size=64x64 \
    --set frames=5 --set steps=2 --ffmpeg "$ffmpeg" --encode '-c:v ffv1' --workers 2 2> "$tmp/log"
[ $? -eq 1 ]
report $? 'bad rows: exit status 1' "$tmp/log"
frames()
{
    [ "$("$ffprobe" -v error -count_frames -show_entries stream=nb_read_frames -of csv=p=0 "$1")" = 5 ]
}
check 'the good ones are rendered' frames "$tmp/mixed/first.mkv"
check 'the second too' frames "$tmp/mixed/0001.mkv"
told() { grep "^wan-batch: row $1[: ]" "$tmp/log" > "$tmp/told"; cat "$tmp/told"; [ "$(wc -l < "$tmp/told")" -eq 1 ] && grep -q "$2" "$tmp/told"; }
check 'an option that is not there' told 2 colour
check 'no prompt' told 3 'no prompt'
check 'no JSON' told 4 .
check 'a name outside' told 5 'not below'
check 'a name twice' told 7 "row 6's already"
check 'a list' told 8 'a list or an object'
check 'no model' told 9 nothing
status() { "$batch" "$tmp/mixed.jsonl" --out "$tmp/mixed" --status 2> "$tmp/log"; [ $? -eq 1 ]; }
check 'their list' status
check 'with their logs' grep -q '^wan-batch: row 9: status .*; log .*\.1\.log$' "$tmp/log"
left() { ! "$batch" "$tmp/mixed.jsonl" --out "$tmp/mixed" --ffmpeg "$tmp/standin" 2> "$tmp/log" && [ ! -f "$tmp/mixed/0002.mp4" ]; }
check 'a row that failed is left' left
retry() { ! "$batch" "$tmp/mixed.jsonl" --out "$tmp/mixed" --retry --ffmpeg "$tmp/standin" 2> "$tmp/log"; test -s "$tmp/mixed/0002.mp4"; }
check 'but not by --retry' retry

# ---- names that ffmpeg would take for something else, and one that is none

printf 'prompt,output\nok,a.mkv\nbad,b\377.mkv\nok,sub:x/c.mkv\nok,-y/d.mkv\n' > "$tmp/names.csv"
mkdir "$tmp/names"
(cd "$tmp/names" && "$batch" "$tmp/names.csv" --set "model=$tiny/wan-t2v" --set device=cpu --set size=64x64 \
    --set frames=5 --set steps=1 --ffmpeg "$ffmpeg" --encode '-c:v ffv1' --workers 2 2> "$tmp/log")
[ $? -eq 1 ]
report $? 'names: exit status 1' "$tmp/log"
check 'a name that is not UTF-8' told 2 'output is not UTF-8'
check 'the rows after it' frames "$tmp/names/a.mkv"
check 'a folder with a colon' frames "$tmp/names/sub:x/c.mkv"
check 'a folder that begins with a dash' frames "$tmp/names/-y/d.mkv"
printf 'prompt,output,encode\nx,a.mkv,-c:v nothing\n' > "$tmp/cause.csv"
"$batch" "$tmp/cause.csv" --out "$tmp/cause" --set "model=$tiny/wan-t2v" --set device=cpu --set size=64x64 \
    --set frames=1 --set steps=1 --ffmpeg "$ffmpeg" 2> "$tmp/log"
check 'the cause is an error, not the first line' told 1 "row 1 failed, status .*\[.*\].*Unknown encoder 'nothing'"

# ---- a signal, and a table that is none

cat > "$tmp/endless" <<'END'
#!/bin/sh
for last; do :; done
echo half > "$last"
echo $$ > "${last%/*}/pid"
exec sleep 1000
END
chmod +x "$tmp/endless"
"$batch" "$tmp/short.csv" --out "$tmp/stopped" --row 1 --ffmpeg "$tmp/endless" 2> "$tmp/log" &
pid=$!
while kill -0 $pid 2> /dev/null && [ ! -s "$tmp/stopped/pid" ]; do sleep 0.1; done
kill -TERM $pid
wait $pid
[ $? -eq 130 ] && ! kill -0 "$(cat "$tmp/stopped/pid")" 2> /dev/null &&
    [ -z "$(find "$tmp/stopped" -name '*part*')" ]
report $? 'a signal ends it and its ffmpeg' "$tmp/log"
resumed() { "$batch" "$tmp/short.csv" --out "$tmp/stopped" --row 1 --ffmpeg "$tmp/standin" && [ -s "$tmp/stopped/clip-1.mp4" ]; }
check 'its row is free at once' resumed
none() { "$batch" "$tmp/none.csv" --out "$tmp/none" 2> "$tmp/log"; [ $? -eq 2 ] && [ "$(wc -l < "$tmp/log")" -eq 1 ]; }
check 'no table' none

finish
