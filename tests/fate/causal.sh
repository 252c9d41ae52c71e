#!/bin/sh
# Causal models inside ffmpeg: frames against the goldens, a scene without end,
# prompts that change between blocks, an image and a clip to go on from, what is
# refused.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$B/bin/wan-info" "$tools/compare"

cats='prompt=Two cats in red gloves box on a small stage.'
rest="text_encoder=$(quote "$tiny/wan-t2v"):tokenizer=$(quote "$tiny/wan-t2v"):vae=$(quote "$tiny/wan-t2v")"
trained="model=$(quote "$tiny/self-forcing"):$rest"
scene="prompt=a cat:size=48x32:seed=5"

# ------------------------------------------------ frames against the goldens

sf7()
{
    make_clip "$(source_of "$cats:size=48x32:frames=81:seed=101:rng=cpu:preset=self-forcing:$exact:format=rgb24$1")" \
        -f rawvideo "$tmp/clip" &&
        "$tools/compare" --rgb24 causal-sf7.safetensors "$tmp/clip"
}
check 'Self-Forcing, seven blocks' sf7
check 'by its numbers' sf7 \
    :preset=none:causal=1:block=3:sampler=dmd:steps=4:shift=5:guidance=1

tensor causal-image.safetensors pixels > "$tmp/pixels"
image()
{
    run -f rawvideo -pixel_format rgb24 -video_size 48x32 -i "$tmp/pixels" -vf \
        "wan_i2v=model=$(quote "$tiny/wan-t2v"):$cats:size=48x32:frames=17:seed=107:rng=cpu:preset=causal-forcing-frame:$exact:format=rgb24" \
        -f rawvideo "$tmp/clip" || { cat "$tmp/log"; return 1; }
    "$tools/compare" --rgb24 causal-image.safetensors "$tmp/clip"
}
check 'Causal-Forcing from an image, frame by frame' image

# ---------------------------------------------------------------- recognised

files()
{
    hashes "wan_t2v=$trained:$scene:frames=9" > "$tmp/a" &&
        has 'Self-Forcing, by its name: preset self-forcing, which is 4 steps of dmd, guidance 1, shift 5$' \
            "$tmp/log" &&
        has 'blocks of 3 latent frames, a window of 3 with a sink of 0' "$tmp/log" &&
        hashes "wan_t2v=$trained:$scene:frames=9:weights=ema" > "$tmp/b" &&
        same "$(cat "$tmp/a")" "$(cat "$tmp/b")" &&
        mkdir -p "$tmp/plain" &&
        ln -s "$tiny/self-forcing/self_forcing_dmd.pt" "$tmp/plain/model.pt" &&
        ln -s "$tiny/self-forcing/config.json" "$tmp/plain" &&
        hashes "wan_t2v=model=$(quote "$tmp/plain/model.pt"):$rest:$scene:frames=9" > "$tmp/b" &&
        has 'by generator_ema: preset self-forcing' "$tmp/log" &&
        same "$(cat "$tmp/a")" "$(cat "$tmp/b")"
}
check "a training's file" files

# -------------------------------------------------------------- without end

# meta KEY: its values, each once
meta() { sed -n "s/^lavfi.wan.$1=//p" "$tmp/meta" | uniq | tr '\n' ' '; }

endless()
{
    make_clip "wan_t2v=$trained:$scene:clips=0:ahead=0:window=6:sink=1,sendcmd=c='0.1 wan_t2v prompt dog; 0.9 wan_t2v prompt cow',metadata=print:file=$(quote "$tmp/meta")" \
        -frames:v 50 -f framemd5 "$tmp/md5" &&
        same "$(meta prompt)" 'a cat dog cow ' &&
        same "$(sed -n 's/^lavfi.wan.\(prompt\|block\)=//p' "$tmp/meta" | paste -d: - - | uniq | head -5 | tr '\n' ' ')" \
            'a cat:0 dog:1 cow:2 cow:3 cow:4 ' &&
        same "$(grep -c '^lavfi.wan.block=0$' "$tmp/meta")" 9 &&
        same "$(grep -c '^lavfi.wan.block=1$' "$tmp/meta")" 12 &&
        cp "$tmp/md5" "$tmp/first" &&
        same "$(sed -n 's/^0, *\([0-9]*\),.*/\1/p' "$tmp/md5" | tail -1)" 49
}
check 'a scene without end, and its prompts' endless

again()
{
    make_clip "wan_t2v=$trained:$scene:clips=0:ahead=0:window=6:sink=1,sendcmd=c='0.1 wan_t2v prompt dog; 0.9 wan_t2v prompt cow'" \
        -frames:v 50 -f framemd5 "$tmp/md5" &&
        same "$(cat "$tmp/md5")" "$(cat "$tmp/first")" &&
        hashes "wan_t2v=$trained:$scene:clips=0:window=6:sink=1" -frames:v 50 > "$tmp/cat" &&
        same "$(sed -n 's/^0.*, *//p' "$tmp/first" | head -9)" "$(head -9 "$tmp/cat")" &&
        ! same "$(sed -n 's/^0.*, *//p' "$tmp/first" | tail -12)" "$(tail -12 "$tmp/cat")" > /dev/null
}
check 'the same again; and another one without the prompts' again

written()
{
    echo 'a cat' > "$tmp/prompt" &&
        hashes "wan_t2v=$trained:promptfile=$(quote "$tmp/prompt"):reload=1:size=48x32:seed=5:frames=33" > "$tmp/a" &&
        same "$(cat "$tmp/a")" "$(hashes "wan_t2v=$trained:$scene:frames=33")"
}
check 'a file that is looked at before each block' written

# ------------------------------------------------------- what it goes on from

chunk()
{
    run -f lavfi -i testsrc2=s=48x32:r=16:d=0.1 -vf \
        "wan_i2v=$trained:$scene:frames=9,metadata=print:file=$(quote "$tmp/meta")" \
        -f framemd5 "$tmp/md5" || { cat "$tmp/log"; return 1; }
    has 'an image fills a block: it is encoded as 9 frames, all but the last' "$tmp/log" &&
        same "$(grep -c '^0,' "$tmp/md5")" 9
}
check 'one image with a model of blocks' chunk

# extend FRAMES OPTIONS: the input passes, the clip has 8 more
extend()
{
    run -loglevel verbose -f lavfi -i "testsrc2=s=48x32:r=16,format=yuv420p" -filter_complex \
        "[0]trim=end_frame=$1,wan_i2v=$trained:$scene:mode=extend:frames=9$2,metadata=print:file=$(quote "$tmp/meta")" \
        -f framemd5 "$tmp/md5" || { cat "$tmp/log"; return 1; }
    cp "$tmp/log" "$tmp/extended" &&
        run -f lavfi -i "testsrc2=s=48x32:r=16,format=yuv420p" -frames:v "$1" \
            -f framemd5 "$tmp/input" || return 1
    same "$(grep -c '^0,' "$tmp/md5")" $(($1 + 8)) &&
        same "$(sed -n 's/^0.*, *//p' "$tmp/md5" | head -"$1")" \
            "$(sed -n 's/^0.*, *//p' "$tmp/input")"
}
longer()        # whose first new block is 0
{
    extend 24 :window=9 && has 'goes on from 21 frames' "$tmp/extended" && same "$(meta block)" '0 '
}
full() { extend 24 :window=6 && has 'goes on from 9 frames' "$tmp/extended"; }
short() { extend 3 '' && lacks 'goes on from' "$tmp/extended"; }
check 'a clip goes on from the last frames' longer
check 'from as many as fit into the window' full
check 'from the last one alone, when there are few' short

# -------------------------------------------------------------------- refused

# refused OPTIONS TEXT: with the trained file
refused()
{
    ! run -f lavfi -i "wan_t2v=$trained:$scene:$1" -f null - && has "$2" "$tmp/log"
}
ordinary()
{
    ! run -f lavfi -i "$(source_of "$scene:frames=9:$1")" -f null - && has "$2" "$tmp/log"
}
check 'a causal option on an ordinary checkpoint' ordinary window=9 \
    'option window: it is for causal models, and .* causal=1'
check 'a window that is too small' refused frames=33:window=5:sink=3 \
    'option window: 5 latent frames; a sink of 3 and a block of 3 need 6'
check 'steps that do not fall' refused 'frames=33:timesteps=1000|750|750' \
    'option timesteps: number 3 is 750; they must fall'
check 'steps of the first block that do not fall' refused \
    'frames=33:first_timesteps=500|750' 'option first_timesteps: number 2 is 750'
check 'no numbers' refused frames=33:first_timesteps=x 'first_timesteps=x: must be numbers'
check 'frames of what has no end' refused frames=33:clips=0 \
    'frames: with clips=0 a causal model makes one scene without end'
check 'a preview' refused frames=33:preview=1,nullsink 'preview'
check 'weights that are not there' refused frames=33:weights=best \
    'option weights: best is none'
drawn_again()
{
    ! run -f lavfi -i testsrc2=s=48x32:r=16:d=0.5 -vf "wan_v2v=$trained:$scene" -f null - &&
        has 'is run as a causal model, which draws no video again; causal=0' "$tmp/log" &&
        run -f lavfi -i testsrc2=s=48x32:r=16:d=0.5 -vf \
            "wan_v2v=$trained:$scene:causal=0:preset=none:steps=2:frames=5" -f null -
}
check 'a video that is drawn again' drawn_again
check 'recache without room' refused clips=0:window=400:switch=recache:memory=9M \
    'option switch: to recache|a window of 400'

# ---------------------------------------------- what a scene without end needs

# needs SHAPES LAYERS DIM FFN SIZE WINDOW: wan-info's numbers beside the arithmetic
# of the architecture: keys and values of a latent frame, and a step of a block of
# three frames that looks back on a full window. Linear layers on the block's
# tokens: six of DIM x DIM and two of DIM x FFN a layer (a prompt's own are kept).
needs()
{
    "$B/bin/wan-info" --shapes "$1" --preset self-forcing --endless --device cpu \
        --size "$5" --window "$6" > "$tmp/info" || return 1
    awk -v layers="$2" -v dim="$3" -v ffn="$4" -v size="$5" -v window="$6" '
        function near(x, y, part) { return x > y * (1 - part) && x < y * (1 + part) }
        / window / { held = $5 }
        / a step / { work = $3 }
        END {
            split(size, s, "x")
            frame = s[1] * s[2] / 256
            n = 3 * frame
            bytes = 4 * 2 * layers * dim * frame * window / 1e9
            flop = 2 * n * layers * (6 * dim * dim + 2 * dim * ffn)
            flop += 4 * n * layers * dim * (window * frame + 512)
            print held " GB, " work " TFLOP; by arithmetic " bytes ", " flop / 1e12
            exit !(near(held, bytes, 0.001) && near(work, flop / 1e12, 0.005))
        }' "$tmp/info"
}
check 'what 1.3B needs at 832x480' needs t2v-1.3B 30 1536 8960 832x480 12
check 'what 1.3B needs at 1280x720' needs t2v-1.3B 30 1536 8960 1280x720 21
check 'what 14B needs at 832x480' needs t2v-14B 40 5120 13824 832x480 21

finish
