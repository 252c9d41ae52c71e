#!/bin/sh
# Marks of AI-generated content, from the filter to the file: a table of
# containers and codecs, and what is stronger, what is kept, what is damaged.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
info=$B/bin/wan-info
need "$ffmpeg" "$ffprobe" "$info"
type=http://cv.iptc.org/newscodes/digitalsourcetype

# marks FILE...: what wan-info finds in the files, in $tmp/marks; its last status
marks()
{
    : > "$tmp/marks"
    for file; do
        "$info" --marks "$file" >> "$tmp/marks" 2>&1
        status=$?
    done
    return $status
}

# written LABEL NAME OPTION...: a clip with label=LABEL in $tmp/NAME, through the
# filters of $through
written()
{
    label=$1 name=$2
    shift 2
    make_film "$(source_of "$small:label=$label")${through-}" "$@" "$tmp/$name"
}

# row PATTERNS NAME [OPTION...]: each of the patterns, separated by blanks, is
# found in a file of that kind; with label=0 nothing is
row()
{
    patterns=$1 row_name=$2
    shift 2
    written 1 "$row_name" "$@" || return 1
    marks "$tmp/${look:-$row_name}" || { cat "$tmp/marks"; return 1; }
    for pattern in $patterns; do
        has "$pattern" "$tmp/marks" || return 1
    done
    written 0 "$row_name" "$@" || return 1
    marks "$tmp/${look:-$row_name}"
    same "$status" 1 && same "$(wc -l < "$tmp/marks" | tr -d ' ')" 0 ||
        { cat "$tmp/marks"; return 1; }
}

# kind ENCODER NAME ROW...: a row of the table, if the encoder is there
kind()
{
    encoder=$1 kind_name=$2
    shift 2
    if have encoders "$encoder"; then
        check "$kind_name" row "$@"
    else
        skip "$kind_name" "no $encoder"
    fi
    look='' through=''
}

tags="tag.AIGC:.*\"Label\":\"1\" tag.DigitalSourceType:.$type/trainedAlgorithmicMedia tag.comment:.AI-generated"
sei='user.data.of.the.video:.AI-generated.*trainedAlgorithmicMedia'
xmp="XMP.DigitalSourceType:.$type/trainedAlgorithmicMedia XMP.AIGC:.*\"Label\":\"1\""

kind libx264 'MP4, H.264' "$tags $sei" a.mp4 -c:v libx264
kind libx265 'MP4, H.265' "$tags $sei" b.mp4 -c:v libx265 -x265-params log-level=none
kind mpeg4 'MP4, MPEG-4' "$tags" c.mp4 -c:v mpeg4
kind libx264 'MP4 in fragments' "$tags $sei" d.mp4 -c:v libx264 -movflags +frag_keyframe+empty_moov
kind libx264 'MOV, H.264' "$tags $sei" a.mov -c:v libx264
kind ffv1 'Matroska, FFV1' "$tags" a.mkv -c:v ffv1
kind libx264 'Matroska, H.264, as a stream' "$tags $sei" b.mkv -c:v libx264 -live 1
kind libvpx-vp9 'WebM, VP9' "$tags" a.webm -c:v libvpx-vp9
through=,scale=64:64    # SVT-AV1 takes nothing smaller
kind libsvtav1 'MP4, AV1' "$tags $sei" e.mp4 -c:v libsvtav1
through=,scale=64:64
kind libsvtav1 'WebM, AV1' "$tags $sei" b.webm -c:v libsvtav1
kind libaom-av1 'Matroska, AV1 by libaom' "$tags $sei" c.mkv -c:v libaom-av1 -cpu-used 8
kind libx264 'FLV, H.264' "$tags $sei" a.flv -c:v libx264
kind libx264 'MPEG-TS, H.264' "$sei" a.ts -c:v libx264
kind libx265 'MPEG-TS, H.265' "$sei" b.ts -c:v libx265 -x265-params log-level=none
look=h0.ts
kind libx264 'HLS, a segment' "$sei" h.m3u8 -c:v libx264
look=init.mp4
kind libx264 'HLS with MP4, its first part' "$tags" f.m3u8 -c:v libx264 -hls_segment_type fmp4
look=chunk-stream0-00001.m4s
kind libx264 'DASH, a segment' "$sei" d.mpd -c:v libx264
kind libx264 'H.264 alone' "$sei" a.h264 -c:v libx264
kind libx265 'H.265 alone' "$sei" a.hevc -c:v libx265 -x265-params log-level=none
kind mpeg4 'AVI, MPEG-4' tag.comment:.AI-generated a.avi -c:v mpeg4
kind png PNG "$xmp" a.png -frames:v 1 -update 1
kind mjpeg JPEG "$xmp" a.jpg -frames:v 1 -update 1 -pix_fmt yuvj420p
kind libwebp 'WebP, lossy' "$xmp" a.webp -c:v libwebp -frames:v 1
kind libwebp 'WebP, lossless' "$xmp" b.webp -c:v libwebp -lossless 1 -pix_fmt bgra -frames:v 1
kind libwebp_anim 'WebP that moves' "$xmp" c.webp -c:v libwebp_anim

# A picture with XMP is still one.
decodes()
{
    for f in a.png a.jpg a.webp b.webp; do
        [ ! -f "$tmp/$f" ] || same "$(frames "$tmp/$f")" 1 || { echo "$f"; return 1; }
    done
}
check 'pictures with XMP decode' decodes

device()    # what the input device hands on; in 5.1 without user data
{
    make_clip "$(source_of "$small")" -c:v mpeg4 "$tmp/device.mp4" && marks "$tmp/device.mp4"
}
check 'through -f lavfi' device
between()
{
    make_film "$(source_of "$small"),scale=64:48,fps=8,pad=64:64" \
        -c:v mpeg4 "$tmp/between.mp4" && marks "$tmp/between.mp4"
}
check 'through other filters' between
bitexact()
{
    written 1 bitexact.mkv -c:v ffv1 -fflags +bitexact -flags:v +bitexact &&
        marks "$tmp/bitexact.mkv"
}
check 'with bitexact' bitexact

# ------------------------------------------------------------ the user's word

stronger()
{
    written 1 user.mkv -c:v ffv1 -metadata 'AIGC={"Label":"1","ContentProducer":"me"}' \
        -metadata comment= -metadata title=hello && marks "$tmp/user.mkv" &&
        has 'AIGC: .*"ContentProducer":"me"' "$tmp/marks" &&
        lacks comment "$tmp/marks" && has DigitalSourceType "$tmp/marks" &&
        "$ffprobe" -v error -show_entries format_tags "$tmp/user.mkv" > "$tmp/tags" &&
        has 'title=hello' "$tmp/tags"
}
check '-metadata is stronger, and deletes' stronger
without()
{
    written 1 without.mp4 -c:v libx264 -udu_sei 0 && marks "$tmp/without.mp4" &&
        lacks 'user data' "$tmp/marks"
}
if have encoders libx264; then
    check '-udu_sei 0 writes no user data' without
fi

# ---------------------------------------------------------- what becomes of them

copied()
{
    written 1 first.mp4 -c:v mpeg4 || return 1
    from=first.mp4
    for to in second.mkv third.mov fourth.mp4; do
        good -i "$tmp/$from" -c copy "$tmp/$to" && marks "$tmp/$to" &&
            has 'tag AIGC' "$tmp/marks" || return 1
        from=$to
    done
}
check 'copied from container to container' copied
again()     # the decoder hands the message on, the encoder writes it
{
    written 1 again.h264 -c:v libx264 &&
        good -i "$tmp/again.h264" -vf scale=96:96 -c:v "$1" "$tmp/again.ts" &&
        good -i "$tmp/again.ts" -c:v "$1" "$tmp/again.$2" &&
        good -i "$tmp/again.$2" -c:v libx264 "$tmp/again.mkv" &&
        marks "$tmp/again.mkv" && has "$sei" "$tmp/marks"
}
for e in 'libx264 h264' 'libx265 hevc'; do
    if have encoders libx264 && have encoders "${e% *}"; then
        # shellcheck disable=SC2086
        check "encoded three times again, ${e% *}" again $e
    fi
done

again_av1()
{
    through=,scale=64:64
    written 1 again.mp4 -c:v libsvtav1 || return 1
    through=
    good -i "$tmp/again.mp4" -c:v libaom-av1 -cpu-used 8 "$tmp/again.webm" &&
        good -i "$tmp/again.webm" -c:v libx264 "$tmp/again.h264" &&
        marks "$tmp/again.h264" && has "$sei" "$tmp/marks"
}
if have encoders libsvtav1 && have encoders libaom-av1 && have encoders libx264 &&
   have decoders libdav1d; then
    check 'encoded again, AV1' again_av1
else
    skip 'encoded again, AV1' 'no libsvtav1, libaom, libdav1d'
fi

# --------------------------------------------------------------- from pictures

good -f lavfi -i testsrc2=s=32x32:r=8 -frames:v 3 -c:v ffv1 "$tmp/in.nut"
t2v=$(quote "$tiny/wan-t2v")
i2v="wan_i2v=model=$(quote "$tiny/wan-i2v"):text_encoder=$t2v:vae=$t2v:tokenizer=$t2v:$small"
first()
{
    good -i "$tmp/in.nut" -vf "$i2v" -c:v mpeg4 "$tmp/first.mp4" &&
        marks "$tmp/first.mp4" && has "$type/trainedAlgorithmicMedia" "$tmp/marks"
}
check 'wan_i2v' first
composite()     # its first frame is of the input
{
    good -i "$tmp/in.nut" -vf "$i2v:mode=extend" -c:v mpeg4 "$tmp/extend.mp4" &&
        marks "$tmp/extend.mp4" &&
        has "DigitalSourceType: $type/compositeWithTrainedAlgorithmicMedia" "$tmp/marks"
}
check 'wan_i2v that extends its input' composite
slate()         # its first frame may be the slate
{
    make_film "$(source_of "$small:late=repeat")" -frames:v 1 -c:v mpeg4 "$tmp/slate.mp4" &&
        marks "$tmp/slate.mp4"
}
check 'a stream that begins with a slate' slate

# ------------------------------------------------------------- others see them

system=/usr/bin/ffprobe
others()
{
    for f in "$tmp/c.mp4" "$tmp/a.mkv"; do
        written 1 "${f##*/}" -c:v mpeg4 &&
            "$system" -v error -show_entries format_tags "$f" > "$tmp/tags" &&
            has '^TAG:AIGC=.*"Label":"1"' "$tmp/tags" &&
            has "^TAG:[Dd][Ii][Gg].*=$type/trainedAlgorithmicMedia" "$tmp/tags" || return 1
    done
}
if [ -x $system ]; then
    check "the system's ffprobe shows the tags" others
else
    skip "the system's ffprobe shows the tags" "no $system"
fi

# ------------------------------------------------------------ signed afterwards

# block LANGUAGE: the one of docs/marks.md, under C2PA
block()
{
    awk -v head="\`\`\`$1" '/^## / { here = $0 == "## C2PA" }
        /^```/ && on { exit } on; $0 == head && here { on = 1 }' "$SRC/docs/marks.md"
}
python=${PYTHON:-python3}
authority()     # the page's commands make a key and a chain that nobody trusts
{
    block sh > "$tmp/trial.sh" && mkdir "$tmp/trial" &&
        (cd "$tmp/trial" && sh -e ../trial.sh) > "$tmp/log" 2>&1 &&
        block python > "$tmp/sign.py" && block json > "$tmp/manifest.json"
}
signed()        # FILE
{
    "$python" "$tmp/sign.py" "$tmp/$1" "$tmp/signed-$1" "$tmp/manifest.json" \
        "$tmp/trial/my-chain.pem" "$tmp/trial/my.key" > "$tmp/report" 2> "$tmp/log" ||
        { cat "$tmp/log"; return 1; }
    has '"claimSignature.validated"' "$tmp/report" && has trainedAlgorithmicMedia "$tmp/report" &&
        lacks 'mismatch' "$tmp/report" && marks "$tmp/signed-$1" &&
        has 'C2PA: a manifest' "$tmp/marks" && has 'DigitalSourceType: .*Media' "$tmp/marks"
}
if ! command -v openssl > /dev/null || ! "$python" -c 'import c2pa' 2> /dev/null; then
    skip 'signed with C2PA' 'no c2pa-python, or no openssl'
else
    check 'a chain for trials' authority
    for f in c.mp4 a.png a.jpg a.webp; do
        rm -f "$tmp/$f"
    done
    written 1 c.mp4 -c:v mpeg4
    written 1 a.png -frames:v 1 -update 1
    written 1 a.jpg -frames:v 1 -update 1 -pix_fmt yuvj420p
    ! have encoders libwebp || written 1 a.webp -c:v libwebp -frames:v 1
    for f in c.mp4 a.png a.jpg a.webp; do
        [ ! -f "$tmp/$f" ] || check "signed with C2PA: $f" signed "$f"
    done
fi

# ----------------------------------------------------------------------- damage

hostile()       # what is left of a file that was cut
{
    written 1 c.mp4 -c:v mpeg4 && written 1 a.png -frames:v 1 -update 1 &&
        written 1 a.mkv -c:v ffv1 || return 1
    for f in c.mp4 a.mkv a.png; do
        size=$(wc -c < "$tmp/$f")
        for n in 1 7 13 40 100 $((size / 3)) $((size / 2)) $((size - 1)); do
            head -c "$n" "$tmp/$f" > "$tmp/cut"
            marks "$tmp/cut"
            [ $status -le 1 ] || { echo "$f cut to $n: $status"; return 1; }
        done
    done
}
check 'files that are cut' hostile
refused_file()  # FILE PATTERN
{
    marks "$1"
    same "$status" 2 && has "$2" "$tmp/marks"
}
check 'a file that is not there' refused_file "$tmp/nowhere" 'wan-info: .*nowhere: No such file'
check 'a folder' refused_file "$tmp" 'wan-info: .*: Is a directory'
# by_hand STATUS HEADER SIZE TEXT LAST: an OBU of AV1, its bytes in octal
by_hand()
{
    {
        printf "\\022\\0\\$2\\$3\\4\\377\\377"
        printf '\232\326\302\241\157\315\106\317\200\225\344\041\240\201\211\003'
        printf "$4\\$5"
    } > "$tmp/hand.obu"
    marks "$tmp/hand.obu"
    same "$status" "$1" || { echo "# $*"; return 1; }
}
# The text ends in the byte that ends an OBU. One without a size, with the size of
# another one, and without an end are none; a longer one has a size of two bytes.
av1_by_hand()
{
    letter=$(printf '\303\200') long=$(printf %0128d 7)
    by_hand 0 052 031 'AI \303\200' 200 &&
        has "user data of the video: AI $letter$" "$tmp/marks" &&
        by_hand 1 050 031 'AI \303\200' 200 && by_hand 1 052 031 'AI \303\200' 201 || return 1
    for size in 032 177 023 0; do
        by_hand 1 052 $size 'AI \303\200' 200 || return 1
    done
    by_hand 0 052 '231\1' "$long"'AI \303\200' 200 && has "video: ${long}AI $letter$" "$tmp/marks"
}
check 'AV1 by hand' av1_by_hand
escape()        # what a terminal would obey is not shown
{
    written 1 escape.mkv -c:v ffv1 -metadata "AIGC=$(printf 'a\033[31mb\302\233c\344\270\255')" &&
        marks "$tmp/escape.mkv" && has "AIGC: a\\?\\[31mb\\?c$(printf '\344\270\255')" "$tmp/marks"
}
check 'a tag with control characters' escape

finish
