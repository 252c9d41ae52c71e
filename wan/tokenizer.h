/*
 * Text to token ids: the reference's cleaning, then the checkpoint's own
 * vocabulary, searched as Hugging Face's tokenizer.json says.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_TOKENIZER_H
#define WAN_TOKENIZER_H

#include "log.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WAN_TEXT_LEN 512        // ids at most, the closing </s> included

typedef struct WanTokenizer WanTokenizer;

/**
 * Load a spiece.model.
 *
 * @param out  on failure NULL; close with wan_tokenizer_close()
 * @param data the file's bytes (also the spiece_model tensor of a ComfyUI
 *             text encoder); need not live on
 * @param name what error lines call it: its path
 * @return 0, or WAN_INVALIDDATA: not a sentencepiece model of type unigram,
 *         or a damaged one; WAN_ERR(ENOMEM)
 */
int wan_tokenizer_open(WanTokenizer **out, const void *data, size_t bytes,
                       const char *name, const WanLog *log);

/* Number of ids the text encoder must have rows for: pieces + extra ids. */
int wan_tokenizer_vocab(const WanTokenizer *t);

/**
 * Clean and encode a prompt: pieces cut to 511, then </s> (1). As on the
 * official path, a run of unknown characters is one <unk>, and special tokens
 * in the text (</s>, <extra_id_0>, ...) are taken as such. Any number of
 * threads may use one tokenizer.
 *
 * @param ids  WAN_TEXT_LEN of them
 * @param cut  becomes the number of pieces that did not fit; may be NULL
 * @param text NUL-terminated UTF-8 of at most 1 MiB
 * @return number of ids, 1 to WAN_TEXT_LEN; WAN_ERR(EINVAL): not UTF-8, the
 *         line says at which byte, or too long; WAN_INVALIDDATA: the model's
 *         charsmap breaks the text; WAN_ERR(ENOMEM)
 */
int wan_tokenizer_encode(const WanTokenizer *t, int32_t *ids, int *cut,
                         const char *text, const WanLog *log);

void wan_tokenizer_close(WanTokenizer **t);

/**
 * The cleaning alone: entities, full and half width, quotes, ligatures,
 * controls, NFC, whitespace.
 *
 * @return the cleaned text, free() it; NULL: no memory, or not UTF-8, which
 *         wan_utf8_check() tells beforehand
 */
char *wan_text_clean(const char *text);

/* Offset of the first byte that isn't well-formed UTF-8; bytes if all are. */
size_t wan_utf8_check(const char *text, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* WAN_TOKENIZER_H */
