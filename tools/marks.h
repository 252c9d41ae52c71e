/*
 * What a media file says of having been generated: the readers of
 * wan-info --marks.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_MARKS_H
#define WAN_MARKS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/**
 * Look for marks of AI-generated content in the bytes of a media file: tags of
 * MP4, MOV, Matroska, WebM, FLV and AVI, XMP of PNG, JPEG and WebP, user data
 * in H.264 and H.265 wherever they are, MPEG-TS too.
 *
 * @param out gets a line for each mark, CARRIER: TEXT; NULL: they are counted
 * @return how many there are; -1: no memory
 */
int marks_find(const uint8_t *data, size_t size, FILE *out);

/** The tool: marks of the file PATH. Its exit status: 0 some, 1 none, 2 error */
int marks_show(const char *path);

#endif /* WAN_MARKS_H */
