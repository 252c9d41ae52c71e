#!/bin/sh
# Few-step families inside ffmpeg: frames against the goldens, what is
# recognised, options beside a preset, commands.
#
# This file is part of libwan; see the licence in wan/wan.h.

. "$SRC/tests/fate/common.sh"
need "$ffmpeg" "$B/bin/wan-info" "$tools/compare"

# ------------------------------------------------ frames against the goldens

lightx2v="prompt=a cat:size=48x32:frames=9:seed=201:rng=cpu"
fastwan="prompt=a quiet lake at dawn:size=32x48:frames=9:seed=202:rng=cpu"
rcm="prompt=Two cats in red gloves box on a small stage.:size=48x32:frames=9:seed=203:rng=cpu"

# golden NAME OPTIONS
golden()
{
    make_clip "$(source_of "$2:$exact:format=rgb24")" -f rawvideo "$tmp/clip" &&
        "$tools/compare" --rgb24 "fewstep-$1.safetensors" "$tmp/clip"
}

check 'lightx2v4' golden lightx2v4 "$lightx2v:preset=lightx2v"
check 'fastwan3' golden fastwan3 "$fastwan:preset=fastwan"
check 'rcm4' golden rcm4 "$rcm:preset=rcm"
check 'lightx2v4 on device ref' golden lightx2v4 "$lightx2v:preset=lightx2v:device=ref"
check 'lightx2v4 by its numbers' golden lightx2v4 \
    "$lightx2v:sampler=euler:timesteps=1000|750|500|250:warp=1:shift=5:guidance=1"
check 'fastwan3 by its numbers' golden fastwan3 \
    "$fastwan:sampler=dmd:timesteps=1000|757|522:shift=8:guidance=1"
check 'rcm4 by its numbers' golden rcm4 "$rcm:sampler=rcm:steps=4:guidance=1"

# another rule is another video: the comparison can fail
wrong()
{
    ! golden fastwan3 "$fastwan:preset=fastwan:warp=1" &&
        ! golden rcm4 "$rcm:preset=rcm:sigma_max=200"
}
check 'another rule is another video' wrong

# ---------------------------------------------------------------- recognised

few="prompt=a cat:size=32x32:frames=5:seed=7"

# as FOLDER OPTIONS: hashes with the tiny checkpoint under another name
as()
{
    ln -sfn "$tiny/wan-t2v" "$tmp/$1" &&
        hashes "wan_t2v=model=$(quote "$tmp/$1"):$2"
}

by_name()
{
    a=$(as FastWan2.1-T2V-1.3B-Diffusers "$few") &&
        has 'FastWan, by its name: preset fastwan, which is 3 steps of dmd, guidance 1, shift 8$' \
            "$tmp/log" &&
        has 'clip 1: seed 7, 3 steps of dmd, guidance 1, shift 8, preset fastwan$' "$tmp/log" &&
        same "$(said 'preset fastwan, which is')" 1 &&
        same "$a" "$(hashes "$(source_of "$few:preset=fastwan")")" &&
        a=$(as FastWan2.1-T2V-1.3B-Diffusers "$few:preset=none:steps=2") &&
        same "$a" "$(hashes "$(source_of "$few:steps=2")")"
}
check 'recognised by the name of a folder' by_name

stronger()
{
    a=$(as TurboWan2.1-T2V-1.3B-480P "$few:steps=2:seed=8") &&
        has 'clip 1: seed 8, 2 steps of rcm, guidance 1, shift 5, preset rcm$' "$tmp/log" &&
        same "$a" "$(hashes "$(source_of "$few:seed=8:preset=none:sampler=rcm:steps=2:guidance=1")")" &&
        a=$(as TurboWan2.1-T2V-1.3B-480P "$few:sampler=unipc:steps=5:guidance=5") &&
        same "$a" "$(hashes "$(source_of "$few:steps=5")")"
}
check 'an option beside a preset is stronger' stronger

info()
{
    ln -sfn "$tiny/wan-t2v" "$tmp/FastWan2.1" &&
        "$B/bin/wan-info" "$tmp/FastWan2.1" --size 32x32 > "$tmp/info" &&
        has 'preset +fastwan, recognised as FastWan: sampler dmd$' "$tmp/info" &&
        has '3 steps, guidance 1, shift 8$' "$tmp/info" &&
        has 'a step .* not guided$' "$tmp/info" &&
        "$B/bin/wan-info" "$tiny/wan-t2v" --size 32x32 --preset rcm > "$tmp/info" &&
        has '32x32, .* 4 steps, guidance 1$' "$tmp/info" &&
        lacks '^  preset' "$tmp/info" &&
        "$B/bin/wan-info" "$tiny/wan-t2v" --preset longlive --endless > "$tmp/info" &&
        has 'window +12 latent frames, .* blocks of 3$' "$tmp/info"
}
check 'wan-info' info

image()
{
    make_image="-f lavfi -i testsrc=s=32x32:r=1 -frames:v 1"
    run $make_image "$tmp/in.png" || return 1
    for o in preset=lightx2v sampler=euler:steps=4:shift=5:guidance=1; do
        good -i "$tmp/in.png" -vf "wan_i2v=model=$(quote "$tiny/wan-i2v"):$parts:$few:$o" \
            -f framemd5 "$tmp/$o.md5" || return 1
    done
    cmp "$tmp/preset=lightx2v.md5" "$tmp/sampler=euler:steps=4:shift=5:guidance=1.md5"
}
parts=$(quote "$tiny/wan-t2v")
parts=text_encoder=$parts:vae=$parts:tokenizer=$parts
check 'wan_i2v' image

# ----------------------------------------------------------------- commands

# commands LINE...: two clips, the second after them
commands()
{
    printf '%s\n' "$@" > "$tmp/commands"
    hashes "$(source_of "$few:clips=2:steps=1"),sendcmd=f=$(quote "$tmp/commands")"
}

at_next_clip()
{
    a=$(commands "0.05 wan_t2v steps -1, wan_t2v preset fastwan;") &&
        b=$(hashes "$(source_of "$few:steps=1")"
            hashes "$(source_of "$few:seed=8:preset=fastwan")") && same "$a" "$b" &&
        a=$(commands "0.05 wan_t2v sampler euler, wan_t2v steps -1;" \
                     "0.1 wan_t2v timesteps 1000|400, wan_t2v guidance 1;") &&
        b=$(hashes "$(source_of "$few:steps=1")"
            hashes "$(source_of "$few:seed=8:sampler=euler:timesteps=1000|400:guidance=1")") &&
        same "$a" "$b"
}
check 'a preset and a list at the next clip' at_next_clip

refused()
{
    a=$(commands "0.05 wan_t2v timesteps 1000|400;" "0.05 wan_t2v timesteps x;" \
                 "0.1 wan_t2v preset turbo, wan_t2v warp 2, wan_t2v sampler rcm9;" \
                 "0.1 wan_t2v preset longlive;")
    has 'sampler unipc has steps of its own' "$tmp/log" &&
        has 'timesteps=x: must be numbers' "$tmp/log" &&
        has 'preset: turbo is none' "$tmp/log" &&
        has 'preset=longlive: clips that are made block by block' "$tmp/log" &&
        same "$a" "$(hashes "$(source_of "$few:clips=2:steps=1")")"
}
check 'commands that are refused change nothing' refused

finish
