"""Writes what the judge asks of the demo model: prompts and stills that training never saw.

    python3 judge_data.py ../../tests/demo

prompts.txt and prompts-zh.txt: seed, prompt, colour, shape, motion, background; stills.txt the same with the
picture's name behind the seed; switches.txt: seed, the first frame of the second prompt, both prompts, colour,
shape, motion, background of the first and of the second; drift.txt: prompts alone, by turns. Fields are separated by
tabs. The files in the repository were made so.

This file is part of libwan; see the licence in wan/wan.h.
"""
import os
import sys

import live
import world

PROMPTS, CHINESE, STILLS, SWITCHES = 72, 8, 12, 60
FIRST_SWITCH = 401
SEED = 20  # of the choice; every row has a seed of its own for the noise


def write_rows(name, rows):
    with open(name, "w", encoding="utf-8") as file:
        for row in rows:
            file.write("\t".join(str(field) for field in row) + "\n")


def switch_rows(n, seed):
    rows = []
    for script, said in live.switch_scripts(n, seed):
        (_, first), (latent, second) = script.scenes
        rows.append((live.first_frame(latent), *said, *(getattr(s, a) for s in (first, second) for a in
                                                        ("colour", "shape", "motion", "background"))))
    return rows


def main():
    folder = sys.argv[1]
    prompts = world.judge_prompts(PROMPTS, SEED)
    write_rows(os.path.join(folder, "prompts.txt"), [(101 + i, *p) for i, p in enumerate(prompts)])
    prompts = world.judge_prompts(CHINESE, SEED + 1, "zh")
    write_rows(os.path.join(folder, "prompts-zh.txt"), [(201 + i, *p) for i, p in enumerate(prompts)])

    os.makedirs(os.path.join(folder, "stills"), exist_ok=True)
    rows = []
    for i, (scene, prompt, motion) in enumerate(world.image_prompts(2 * STILLS, SEED)):
        still = f"stills/{i // 2 + 1:02}.png"
        if i % 2 == 0:  # two prompts to a still
            world.write_png(os.path.join(folder, still), world.render(scene, 1)[0])
        rows.append((301 + i, still, prompt, scene.colour, scene.shape, motion, scene.background))
    write_rows(os.path.join(folder, "stills.txt"), rows)
    write_rows(os.path.join(folder, "switches.txt"),
               [(FIRST_SWITCH + i, *row) for i, row in enumerate(switch_rows(SWITCHES, SEED))])
    write_rows(os.path.join(folder, "drift.txt"), [(said,) for _, said in live.steady_scenes(SEED)])


if __name__ == "__main__":
    main()
