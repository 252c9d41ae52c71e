/*
 * What each stage of one video costs: seconds, rate, memory against the plan.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * usage: stages [--precision=NAME] MODEL [WxH [FRAMES [STEPS [THREADS [GUIDANCE
 *        [CHUNKS]]]]]]
 * MODEL makes video from text; of its frames only so many CHUNKS are decoded.
 * Prints a table in Markdown, as docs/performance.md keeps it. The first unit of
 * a stage is shown apart: it reads the weights from the disk, if they are not in
 * the page cache yet. Under mpirun it is the first of the ranks, see ranks.sh.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dev.h"

static const char prompt[] =
    "A red ball bounces on a wet street at night, neon signs are mirrored in "
    "the puddles, the camera follows it slowly.";

static void show_line(void *opaque, enum WanLogLevel level, const char *line)
{
    *(int *)opaque += level == WAN_LOG_ERROR;
    fprintf(stderr, "stages: %s\n", line);
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* A line of /proc/self/status in GB; 0 where there is none. */
static double status_gb(const char *key)
{
    const size_t n = strlen(key);
    char line[256];
    long long kb = 0;
    FILE *f = fopen("/proc/self/status", "re");

    while (f && fgets(line, sizeof(line), f))
        if (!strncmp(line, key, n) && sscanf(line + n, ": %lld", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb * 1024 / 1e9;
}

typedef struct Stage {
    const char *name;
    double flops;               // of all its units
    int units;
    double first, rest;         // seconds of the first unit, of the others
    double cpu;                 // processor seconds
} Stage;

static void show(const Stage *s)
{
    const double all = s->first + s->rest;

    printf("| %-6s | %5d | %8.3f | %8.3f | ", s->name, s->units, all,
           s->first);
    if (s->units > 1)
        printf("%10.3f | ", s->rest / (s->units - 1));
    else
        printf("%10s | ", "-");
    printf("%7.3f | %7.1f | %7.1f |\n", s->flops / 1e12,
           s->flops / all / 1e9, s->flops / s->cpu / 1e9);
}

/* Seconds that all cores together have worked for this process. */
static double processor(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Drive the job as far as that; the frames are read and dropped. */
static int generate(WanJob *job, const WanRequest *rq, Stage *stage,
                    int chunks, double *anonymous)
{
    WanImage img = { .size = sizeof(img), .format = WAN_PIX_RGB24,
                     .width = rq->width,
                     .height = rq->height, .stride = { 3 * rq->width } };
    WanProgress p;
    int ret;

    img.data[0] = malloc((size_t)3 * rq->width * rq->height);
    if (!img.data[0])
        return WAN_ERR(ENOMEM);
    for (double before = processor();
         (ret = wan_job_step(job, &p)) >= 0; before = processor()) {
        const double gb = status_gb("RssAnon");

        if (gb > *anonymous)
            *anonymous = gb;
        if (p.stage < WAN_STAGE_DONE) {
            stage[p.stage].cpu += processor() - before;
            if (!stage[p.stage].units++)
                stage[p.stage].first = p.seconds;
            else
                stage[p.stage].rest += p.seconds;
        }
        while ((ret = wan_job_frame(job, &img)) >= 0)
            ;
        if (ret != WAN_ERR(EAGAIN))
            break;
        if (stage[WAN_STAGE_STEPS].units == rq->steps &&
            stage[WAN_STAGE_DECODE].units >= chunks) {
            ret = 0;
            break;
        }
    }
    free(img.data[0]);
    return ret == WAN_EOF ? 0 : ret;
}

static int parse_precision(enum WanPrecision *out, const char *text)
{
    for (int p = 0; p <= WAN_PRECISION_INT8; p++)
        if (!strcmp(text, wan_precision_name((enum WanPrecision)p))) {
            *out = (enum WanPrecision)p;
            return 0;
        }
    fprintf(stderr, "stages: --precision=%s: auto, f32, bf16 or int8 can be\n",
            text);
    return -1;
}

int main(int argc, char **argv)
{
    static const char option[] = "--precision=";
    Stage stage[] = {
        [WAN_STAGE_TEXT] = { .name = "text" },
        [WAN_STAGE_IMAGE] = { .name = "image" },
        [WAN_STAGE_STEPS] = { .name = "steps" },
        [WAN_STAGE_DECODE] = { .name = "decode" },
    };
    static uint8_t grey[640 * 360 * 3];
    const WanImage picture = { .format = WAN_PIX_RGB24, .width = 640,
                               .height = 360, .data = { grey },
                               .stride = { 640 * 3 } };
    WanModelParams mp;
    WanModel *m = NULL;
    WanRequest rq;
    WanJob *job = NULL;
    WanPlan plan;
    double start = now(), opened, anonymous = 0;
    int chunks, ret, errors = 0;

    wan_model_params_default(&mp);
    if (argc > 1 && !strncmp(argv[1], option, sizeof(option) - 1)) {
        if (parse_precision(&mp.precision, argv[1] + sizeof(option) - 1) < 0)
            return 2;
        argc--;
        argv++;
    }
    if (argc < 2 || argc > 8) {
        fprintf(stderr, "usage: stages [--precision=NAME] MODEL [WxH [FRAMES "
                "[STEPS [THREADS [GUIDANCE [CHUNKS]]]]]]\n");
        return 2;
    }
    mp.path = argv[1];
    mp.threads = argc > 5 ? atoi(argv[5]) : 0;
    mp.processes = 1;
    mp.log = show_line;
    mp.log_opaque = &errors;
    mp.log_level = WAN_LOG_WARNING;
    if ((ret = wan_model_open(&m, &mp)) < 0)
        goto end;
    opened = now() - start;

    wan_request_default(&rq, m);
    rq.prompt = prompt;
    rq.width = 256;
    rq.height = 144;
    if (argc > 2 && sscanf(argv[2], "%dx%d", &rq.width, &rq.height) != 2)
        rq.width = 0;           // refused below, with a line
    rq.frames = argc > 3 ? atoi(argv[3]) : 5;
    rq.steps = argc > 4 ? atoi(argv[4]) : 3;
    rq.guidance = argc > 6 ? atof(argv[6]) : rq.guidance;
    chunks = argc > 7 ? atoi(argv[7]) : rq.frames;
    if (wan_model_info(m)->task >= WAN_TASK_I2V)
        rq.image = &picture;
    if (wan_model_info(m)->task >= WAN_TASK_FLF2V)
        rq.last_image = &picture;
    if ((ret = wan_plan(&plan, m, &rq)) < 0 ||
        (ret = wan_job_open(&job, m, &rq)) < 0 ||
        (ret = generate(job, &rq, stage, chunks, &anonymous)) < 0)
        goto end;

    stage[WAN_STAGE_TEXT].flops = plan.text_flops;
    stage[WAN_STAGE_IMAGE].flops = plan.image_flops;
    stage[WAN_STAGE_STEPS].flops = plan.step_flops * rq.steps;
    stage[WAN_STAGE_DECODE].flops = plan.decode_flops;
    printf("%s, %s, %dx%d, %d frames, %d steps, guidance %g\n\n",
           wan_model_info(m)->name,
           wan_precision_name(wan_model_info(m)->precision), rq.width,
           rq.height, rq.frames, rq.steps, rq.guidance);
    printf("| stage  | units | seconds  | first    | each other | TFLOP   | "
           "GFLOP/s | a core |\n|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < WAN_STAGE_DONE; i++)
        if (stage[i].units)
            show(&stage[i]);
    printf("\nopened in %.3f s; memory of our own: %.3f GB at most, planned "
           "work %.3f GB; resident with mapped weights: %.3f GB at most, "
           "weights %.3f GB\n", opened, anonymous, plan.work_bytes / 1e9,
           status_gb("VmHWM"), plan.weight_bytes / 1e9);
    if (plan.processes > 1)
        printf("%d processes; this one sends by plan: %.6f GB a step, %.6f GB "
               "while all is decoded\n", plan.processes, plan.sent_bytes / 1e9,
               plan.decode_sent_bytes / 1e9);
end:
    if (ret < 0 && !errors)
        fprintf(stderr, "stages: %s\n", wan_strerror(ret));
    wan_job_close(&job);
    wan_model_close(&m);
    return ret < 0;
}
