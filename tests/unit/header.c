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

/* Found or not, it says an absolute path; tests/fate/install.sh looks where. */
TEST(demo_model)
{
    WanDemo t2v, i2v, none;
    const int ret = wan_demo_model(&t2v, WAN_TASK_T2V);

    CHECK(ret == 0 || ret == WAN_ERR(ENOENT));
    CHECK(*t2v.model == '/' && *t2v.manual == '/');
    CHECK(strlen(t2v.model) > 3 &&
          !strcmp(t2v.model + strlen(t2v.model) - 3, "t2v"));
    CHECK(wan_demo_model(&i2v, WAN_TASK_I2V) != ret ||
          !strcmp(i2v.manual, t2v.manual));
    CHECK(strcmp(i2v.model, t2v.model));
    CHECK(wan_demo_model(&none, WAN_TASK_FLF2V) == WAN_ERR(ENOSYS));
    CHECK(!*none.model && !*none.manual);
}

int main(void)
{
    RUN(version);
    RUN(errors_have_texts);
    RUN(no_model_is_an_error);
    RUN(demo_model);
    return test_end();
}
