/*
 * Wan 2.2's two experts: which a file is, by its names, and where the other
 * lies.
 *
 * This file is part of libwan; see the licence in wan.h.
 *
 * One transformer makes the steps with much noise, the other the rest. No
 * tensor tells them apart; folders and files do.
 */

#ifndef WAN_EXPERTS_H
#define WAN_EXPERTS_H

typedef enum WanExpert {
    WAN_EXPERT_NONE,        // its names don't say
    WAN_EXPERT_HIGH,
    WAN_EXPERT_LOW
} WanExpert;

#define WAN_EXPERTS 2

/* "high-noise", "low-noise". */
const char *wan_expert_name(WanExpert e);

/**
 * What a file's folder says of it, else its own name: "high" or "low" before
 * "noise" (high_noise, HighNoise, low-noise), HIGH or LOW as a word of its own,
 * or Diffusers' transformer_2.
 */
WanExpert wan_expert_of(const char *path);

/* The same of one name without slashes. */
WanExpert wan_expert_word(const char *name);

/**
 * The path of the other expert: that of the file with high and low exchanged
 * in its name and its folder's, transformer and transformer_2 too.
 *
 * @param out free() it; NULL: the path has no such word
 * @return 0, -1: no memory
 */
int wan_expert_partner(char **out, const char *path);

#endif /* WAN_EXPERTS_H */
