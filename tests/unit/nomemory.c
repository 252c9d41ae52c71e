/*
 * No memory, at one allocation after another: each failure is WAN_ERR(ENOMEM)
 * and one line, whatever was being done, and nothing is left behind.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * The library's allocations come here by the linker's --wrap, cJSON's by its
 * hooks.
 */

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "golden.h"
#include "model.h"
#include "test.h"

static long count, fail_at, failed;

static int fails(void)
{
    if (++count != fail_at)
        return 0;
    failed = 1;
    errno = ENOMEM;
    return 1;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from);

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

char *__wrap_strndup(const char *s, size_t n)
{
    return fails() ? NULL : __real_strndup(s, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    return fails() ? NULL : __real_aligned_alloc(align, n);
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from)
{
    return fails() ? MAP_FAILED : __real_mmap(at, n, prot, flags, fd, from);
}

static void *json_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

static char last[1024];
static int lines;

static void keep(void *opaque, enum WanLogLevel level, const char *line)
{
    (void)opaque;
    if (level > WAN_LOG_ERROR)
        return;
    snprintf(last, sizeof(last), "%s", line);
    lines++;
}

/* A small job, to its first frame; *where is what it was at. */
static int run(const WanModelParams *p, const char **where)
{
    static uint8_t pixels[3 * 24 * 24];
    WanImage image = { .size = sizeof(image), .format = WAN_PIX_RGB24,
                       .width = 24, .height = 24, .data = { pixels },
                       .stride = { 72 } };
    const WanImage *one[] = { &image };
    const WanControl control = { .size = sizeof(control), .video = one,
                                 .mask = one, .nb_frames = 1,
                                 .references = one, .nb_references = 1,
                                 .scale = 1 };
    const WanControl *controls[] = { &control };
    WanModel *m = NULL;
    WanJob *job = NULL;
    WanRequest rq;
    WanPlan plan;
    int ret;

    *where = "open";
    if ((ret = wan_model_open(&m, p)) < 0)
        goto end;
    wan_request_default(&rq, m);
    rq.prompt = "a red ball &amp; a \xe4\xb8\xad cat";
    rq.width = rq.height = 16;
    rq.frames = 1;
    rq.steps = 1;
    rq.guidance = 1;
    rq.image = wan_model_info(m)->task == WAN_TASK_I2V ? &image : NULL;
    rq.controls = controls;
    rq.nb_controls = wan_model_info(m)->task == WAN_TASK_VACE;
    *where = "plan";
    if ((ret = wan_plan(&plan, m, &rq)) < 0)
        goto end;
    *where = "job";
    if ((ret = wan_job_open(&job, m, &rq)) < 0)
        goto end;
    *where = "step";
    while ((ret = wan_job_frame(job, &(WanImage){ 0 })) == WAN_ERR(EAGAIN))
        if ((ret = wan_job_step(job, NULL)) < 0)
            goto end;
    ret = 0;
end:
    CHECK(ret >= 0 || !job || strcmp(*where, "job"));
    wan_job_close(&job);
    wan_model_close(&m);
    return ret;
}

static void fail_each(const WanModelParams *p)
{
    const char *where;
    long all;

    fail_at = 0;
    run(p, &where);         // what is made once in a process
    count = lines = 0;
    if (!CHECKF(run(p, &where) == 0, "%s: %s", where, last))
        return;
    all = count;
    CHECKF(all > 300, "%ld allocations", all);
    /* Tensors come by the hundred and their names are all alike. */
    for (long n = 1; n <= all; n += n < 40 || all - n < 60 ? 1 : 17) {
        int ret;

        count = failed = lines = 0;
        last[0] = 0;
        fail_at = n;
        ret = run(p, &where);
        fail_at = 0;
        if (!failed || ret >= 0)    // it did without
            continue;
        CHECKF(ret == WAN_ERR(ENOMEM), "%ld of %ld, %s: %d, %s", n, all, where,
               ret, last);
        CHECKF(lines == 1, "%ld of %ld, %s: %d lines, %s", n, all, where,
               lines, last);
    }
}

static WanModelParams params(const char *path, const char *rest)
{
    WanModelParams p;

    wan_model_params_default(&p);
    p.path = path;
    p.text_encoder = p.vae = p.tokenizer = rest;
    p.threads = 1;
    p.device = "cpu";
    p.log = keep;
    return p;
}

/* The smallest LoRA: changes of F16 with that header and data, 384 bytes. */
static const char *lora_file(const char *json)
{
    static char path[300];
    const uint64_t n = strlen(json);
    const char *tmp = getenv("TMPDIR");
    FILE *f;

    snprintf(path, sizeof(path), "%s/wan-nomemory-%ld.safetensors",
             tmp ? tmp : P_tmpdir, (long)getpid());
    f = fopen(path, "wb");
    if (!f || fwrite(&n, 8, 1, f) != 1 || fwrite(json, 1, n, f) != n ||
        fwrite(last, 1, 384, f) != 384 || fclose(f))
        exit(1);
    return path;
}

TEST(official_and_lora)
{
    WanModelParams p = params(golden_path("tiny/wan-t2v"), NULL);

    p.lora = lora_file("{\"blocks.0.self_attn.q.diff_b\":{\"dtype\":\"F16\","
                       "\"shape\":[96],\"data_offsets\":[0,192]},"
                       "\"blocks.1.self_attn.q.diff_b\":{\"dtype\":\"F16\","
                       "\"shape\":[96],\"data_offsets\":[192,384]}}");
    fail_each(&p);
    unlink(p.lora);
}

/* Blocks, a vocabulary inside, a LoRA beside a matrix. */
TEST(gguf_and_lora)
{
    static char path[3][4096];
    WanModelParams p;

    snprintf(path[0], sizeof(path[0]), "%s",
             golden_path("tiny/gguf/wan-t2v-q8_0/wan2.1-t2v-Q8_0.gguf"));
    snprintf(path[1], sizeof(path[1]), "%s",
             golden_path("tiny/gguf/umt5/umt5-encoder-Q8_0.gguf"));
    snprintf(path[2], sizeof(path[2]), "%s", golden_path("tiny/wan-t2v"));
    p = params(path[0], NULL);
    p.text_encoder = path[1];
    p.vae = path[2];
    p.lora = lora_file("{\"blocks.0.self_attn.q.lora_A.weight\":{\"dtype\":"
                       "\"F16\",\"shape\":[1,96],\"data_offsets\":[0,192]},"
                       "\"blocks.0.self_attn.q.lora_B.weight\":{\"dtype\":"
                       "\"F16\",\"shape\":[96,1],\"data_offsets\":"
                       "[192,384]}}");
    fail_each(&p);
    unlink(p.lora);
}

TEST(images)
{
    static char rest[4096];

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    const WanModelParams p = params(golden_path("tiny/wan-i2v"), rest);
    fail_each(&p);
}

TEST(vace)
{
    static char rest[4096];

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    const WanModelParams p = params(golden_path("tiny/wan-vace"), rest);
    fail_each(&p);
}

TEST(shards)
{
    static char rest[4096];

    snprintf(rest, sizeof(rest), "%s", golden_path("tiny/wan-t2v"));
    const WanModelParams p = params(golden_path("tiny/wan-t2v-hd128"), rest);
    fail_each(&p);
}

/* A hub's cache with ComfyUI's folders in it, where all but the tokenizer is
 * searched for. */
TEST(searched)
{
    static char dir[300], command[8192];
    const char *tmp = getenv("TMPDIR");
    WanModelParams p;

    snprintf(dir, sizeof(dir), "%s/models--wan-nomemory-%ld", tmp ? tmp
             : P_tmpdir, (long)getpid());
    snprintf(command, sizeof(command), "d='%s' && g=$(cd '%s' && pwd) && "
             "s=$d/snapshots/1/split_files && u=$s/diffusion_models && "
             "mkdir -p $d/refs $s/vae $s/clip $u && printf 1 > $d/refs/main && "
             "ln -s $g/gguf/wan-t2v-q8_0/*.[gj]* $u && "
             "ln -s $g/gguf/umt5/*.gguf $s/clip && "
             "ln -s $g/wan-t2v/Wan2.1_VAE.pth $s/vae", dir,
             golden_path("tiny"));
    CHECK(!system(command));
    p = params(dir, NULL);
    fail_each(&p);
    snprintf(command, sizeof(command), "rm -r '%s'", dir);
    CHECK(!system(command));
}

int main(void)
{
    cJSON_Hooks hooks = { json_malloc, free };

    cJSON_InitHooks(&hooks);
    RUN(official_and_lora);
    RUN(gguf_and_lora);
    RUN(images);
    RUN(vace);
    RUN(shards);
    RUN(searched);
    return test_end();
}
