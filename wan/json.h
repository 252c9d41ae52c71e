/*
 * JSON texts from files: headers, indices, config.json.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_JSON_H
#define WAN_JSON_H

#include <cjson/cJSON.h>

#include "log.h"

/**
 * Parse a text that must be one JSON object. A byte order mark before it is
 * passed over.
 *
 * @param out  cJSON_Delete() it; on failure NULL
 * @param path and what are what error lines call it
 * @return 0; WAN_INVALIDDATA: the line says at which byte; WAN_ERR(ENOMEM)
 */
int wan_json_parse(cJSON **out, const char *path, const char *what,
                   const void *text, size_t size, const WanLog *log);

/* Bytes of the mark that some editors put before UTF-8: 3, or 0. */
size_t wan_json_bom(const void *text, size_t size);

#endif /* WAN_JSON_H */
