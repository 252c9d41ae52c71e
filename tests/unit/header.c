/*
 * wan.h alone, against the shared library, as a user compiles it.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include "wan.h"

#include "test.h"

TEST(version)
{
    CHECK(wan_version() == (WAN_VERSION_MAJOR << 16 | WAN_VERSION_MINOR << 8 |
                            WAN_VERSION_MICRO));
}

TEST(errors_have_texts)
{
    CHECK(strcmp(wan_strerror(WAN_INVALIDDATA), wan_strerror(0)));
    CHECK(strcmp(wan_strerror(WAN_EOF), wan_strerror(WAN_CANCELLED)));
    CHECK(*wan_strerror(-12345));
}

TEST(no_model_is_an_error)
{
    WanModelParams p;
    WanModel *m = (WanModel *)&p;

    wan_model_params_default(&p);
    CHECK(wan_model_open(&m, &p) == WAN_ERR(EINVAL) && !m);
    p.path = "/nonexistent";
    CHECK(wan_model_probe(&p) == WAN_ERR(ENOENT));
    CHECK(wan_model_open(&m, &p) == WAN_ERR(ENOENT) && !m);
    wan_model_close(&m);
}

int main(void)
{
    RUN(version);
    RUN(errors_have_texts);
    RUN(no_model_is_an_error);
    return test_end();
}
