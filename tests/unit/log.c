/*
 * Log lines and errors: whatever lies in files, a line is valid UTF-8, one
 * line, and of a length that can be shown.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "log.h"
#include "test.h"
#include "tokenizer.h"

static char last[4096];
static int lines;

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    (void)level;
    snprintf(last, sizeof(last), "%s", line);
    lines++;
}

static const WanLog log_keep = { keep, NULL, WAN_LOG_WARNING };

TEST(what_is_escaped)
{
    static const char *const c[][2] = {
        { "plain", "plain" },
        { "tab\tand\x7f", "tab\\x09and\\x7f" },
        { "caf\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x90\xb1",
          "caf\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x90\xb1" },
        { "di\xfe" "fusion", "di\\xfe" "fusion" },      // no UTF-8
        { "\xe4\xb8", "\\xe4\\xb8" },                   // cut in the file
        { "\xc0\xaf\xed\xa0\x80", "\\xc0\\xaf\\xed\\xa0\\x80" },
        { "\xc2\x9b" "31m", "\\xc2\\x9b" "31m" },       // CSI, a C1 control
        { "\xc2\x80\xc2\xa0", "\\xc2\\x80\xc2\xa0" },
        { "\xe2\x80\xa8", "\\xe2\\x80\\xa8" },          // line separator
    };

    for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++) {
        wan_log(&log_keep, WAN_LOG_WARNING, "%s", c[i][0]);
        CHECKF(!strcmp(last, c[i][1]), "%s for %s", last, c[i][1]);
    }
}

/* Long lines end at a character, and show that they were cut. */
TEST(where_lines_are_cut)
{
    static const char *const unit[] = { "a", "\xc3\xa9", "\xe4\xb8\xad",
                                        "\xf0\x9f\x90\xb1", "\xff", "\x1b" };
    static char text[9000];

    for (int k = 0; k < 6; k++)
        for (int shift = 0; shift < 5; shift++) {
            size_t n;

            memset(text, 'x', shift);
            for (n = shift; n + 4 < sizeof(text); n += strlen(unit[k]))
                strcpy(text + n, unit[k]);
            text[n] = 0;
            wan_log(&log_keep, WAN_LOG_ERROR, "%s", text);
            n = strlen(last);
            CHECKF(n > 1000 && n < 2048, "%zu bytes", n);
            CHECKF(wan_utf8_check(last, n) == n, "%s", last);
            CHECK(!strcmp(last + n - 3, "..."));
            CHECK(k > 3 || !strchr(last, '\\'));
        }
}

TEST(errors)
{
    static const struct { int number, error; const char *words; } c[] = {
        { ENOENT, ENOENT, "f: No such file" }, { ENOTDIR, ENOENT, "f: Not a" },
        { EACCES, EACCES, "f: Permission" }, { EPERM, EACCES, "f: Operation" },
        { EISDIR, EISDIR, "f: Is a" }, { ELOOP, ELOOP, "f: Too many" },
        { ENAMETOOLONG, ENAMETOOLONG, "f: " }, { EMFILE, EMFILE, "f: " },
        { ENODEV, ENODEV, "f: " }, { EAGAIN, EIO, "f: " },
        { EINVAL, EIO, "f: " }, { ENOSYS, EIO, "f: " }, { EIO, EIO, "f: " },
    };

    for (size_t i = 0; i < sizeof(c) / sizeof(*c); i++) {
        const int ret = wan_error_file(&log_keep, "f", c[i].number);

        CHECKF(ret == WAN_ERR(c[i].error), "%d: %d", c[i].number, ret);
        CHECKF(!strncmp(last, c[i].words, strlen(c[i].words)), "%s", last);
        CHECKF(strcmp(wan_strerror(ret), "error"), "%d has no text", ret);
    }
    lines = 0;
    CHECK(wan_error(&log_keep, WAN_INVALIDDATA, "%d", 7) == WAN_INVALIDDATA);
    CHECK(lines == 1 && !strcmp(last, "7"));
    CHECK(wan_error_memory(&log_keep, "f", "x") == WAN_ERR(ENOMEM));
    CHECK(lines == 2 && !strcmp(last, "f: no memory for x"));
    CHECK(wan_error(NULL, 5, "silent") == 5);
}

int main(void)
{
    RUN(what_is_escaped);
    RUN(where_lines_are_cut);
    RUN(errors);
    return test_end();
}
