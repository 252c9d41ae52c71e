/*
 * The cleaning of prompts: what ftfy and html.unescape make of the same text.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <time.h>

#include "golden.h"
#include "test.h"
#include "tokenizer.h"

static void expect(const char *text, const char *want)
{
    char *got = wan_text_clean(text);

    CHECKF(got && !strcmp(got, want), "\"%s\" became \"%s\", not \"%s\"",
           text, got ? got : "(null)", want);
    free(got);
}

TEST(goldens)
{
    cJSON *json = golden_json("tokenizer/prompts.json");
    const cJSON *c;
    int count = 0;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(json, "cases")) {
        const cJSON *text = cJSON_GetObjectItem(c, "text");
        const cJSON *clean = cJSON_GetObjectItem(c, "cleaned");

        if (!text)          // one holds a NUL, which no C string can
            continue;
        expect(text->valuestring, (clean ? clean : text)->valuestring);
        count++;
    }
    CHECKF(count == 189, "%d texts", count);
    cJSON_Delete(json);
}

TEST(entities)
{
    expect("&Eacute;t&eacute; &lt; &#233;&#xE9;&#Xe9; &CounterClockwiseContour"
           "Integral;", "Été < ééé ∳");
    expect("&amp;amp;amp;amp; &ngE;", "& ≧̸");
    expect("&notit; &not &notin; &copy2024 &AMP", "¬it; ¬ ∉ ©2024 &");
    expect("&#128; &#0; &#xd800; &#1114112; &#99999999999999999999; &#1;x",
           "€ � � � � x");
    expect("a&b & && &; &#; &#x; &#xg; &nosuch; &", "a&b & && &; &#; &#x; &#xg;"
           " &nosuch; &");
    expect("&quot;&ldquo;&rsquo;&#8217;", "\"\"''");
    /* no entity is decoded before quotes are made straight where < stands */
    expect("&ldquo;a\n<b>&ldquo;\n&ldquo;", "\"a <b>“ “");
    expect("&EACUTE; &hellip &ngE x", "&EACUTE; &hellip &ngE x");
    expect("<&amp;amp;lt;", "<&lt;");           // two rounds, not more
}

TEST(characters)
{
    expect("“a” ‘b’ ‛c‟ ʼd", "\"a\" 'b' 'c\" 'd");
    expect("ＡＢＣ　１２３！，：（）。、《》…", "ABC 123!,:()。、《》…");
    expect("ｶﾞｯﾂ ￣ ￦ ﾡ", "ガッツ ̄ ₩ ᄀ");
    expect("ﬁ ﬀ ﬃ ﬄ ﬅ ﬆ Ĳ ĳ ŉ Ǆ ǆ ǈ", "fi ff ffi ffl ſt st IJ ij 'n DŽ dž Lj");
    expect("e\xcc\x81 A\xcc\x8a \xe2\x84\xa6 \xe2\x84\xab", "é Å Ω Å");
    expect("q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87");
    expect("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc");   // not composed
    expect("a\x01" "b\x7f" "c\xef\xbb\xbf" "d\xef\xbf\xbc" "e", "abcde");
    expect("\x1b[1;31mred\x1b[0m \x1b[12 x", "red [12 x");
    expect("\xc2\x80\xc2\x85\xc2\x99", "€…™");
}

TEST(whitespace)
{
    expect("", "");
    expect(" \t\n\v\f\r\xc2\xa0\xe3\x80\x80\xe2\x80\xa8", "");
    expect(" a\xc2\xa0 b\r\n\r\nc\xe2\x80\x83" "d\xe1\x9a\x80" "e ",
           "a b c d e");
    expect("a\xe2\x80\x8b" "b", "a\xe2\x80\x8b" "b");
}

TEST(encoding_repair)
{
    expect("cafÃ© â€œxâ€\xc2\x9d", "café \"x\"");
    expect("ä½\xc2\xa0å¥½", "你好");
    expect("cafÃ© 猫", "cafÃ© 猫");         // not of those encodings
    expect("cafÃ© é", "cafÃ© é");           // not UTF-8 then
    expect("er macht Spaß«", "er macht Spaß«");
    expect("Ã© ok\nSpaß«", "é ok Spaß«");   // line by line
}

TEST(malformed_is_refused)
{
    static const struct { const char *text; size_t at; } bad[] = {
        { "abc\xff", 3 }, { "\x80", 0 }, { "a\xc3", 1 }, { "a\xc3(", 1 },
        { "\xc0\xaf", 0 }, { "ab\xed\xa0\x80", 2 }, { "\xf4\x90\x80\x80", 0 },
        { "\xe2\x82", 0 }, { "é\xf0\x9f\x98", 2 }, { "\xf5\x80\x80\x80", 0 },
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        const size_t n = strlen(bad[i].text);
        const size_t at = wan_utf8_check(bad[i].text, n);

        CHECKF(at == bad[i].at, "case %d: at %d", (int)i, (int)at);
        CHECK(!wan_text_clean(bad[i].text));
    }
    CHECK(wan_utf8_check("aé猫😀", 10) == 10);
}

/* 100 kB of s again and again */
static char *filled(const char *s)
{
    const size_t n = strlen(s), count = 100000 / n;
    char *text = malloc(n * count + 1);

    for (size_t i = 0; i < count; i++)
        memcpy(text + i * n, s, n);
    text[n * count] = 0;
    return text;
}

TEST(nothing_takes_quadratic_time)
{
    static const char *const worst[] = {
        "&amp;", "amp;&", "&", "&#112;", "&#1", "\x1b[1;", "\xcc\x87\xcc\xa3",
        "<", "\n<", "Ã©", "ﬃ", " ", "猫", "&CounterClockwiseContourIntegra",
        "\xcd\x82\xcc\xb4",
    };

    for (size_t i = 0; i < sizeof(worst) / sizeof(*worst); i++) {
        char *text = filled(worst[i]), *clean;
        const clock_t t = clock();
        double s;

        clean = wan_text_clean(text);
        s = (double)(clock() - t) / CLOCKS_PER_SEC;
        CHECKF(clean && s < 3, "case %d: %.2f s", (int)i, s);
        free(clean);
        free(text);
    }
}

int main(void)
{
    RUN(goldens);
    RUN(entities);
    RUN(characters);
    RUN(whitespace);
    RUN(encoding_repair);
    RUN(malformed_is_refused);
    RUN(nothing_takes_quadratic_time);
    return test_end();
}
