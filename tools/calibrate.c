/*
 * wan-info --calibrate.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "files.h"

#define MAX_SIDE (1 << 15)      // of an image
#define MAX_PPM ((size_t)1 << 30)

/* ---------------------------------------------------------------- images */

/* A number of a PPM's header, after blanks and comments; -1: there is none. */
static int header_number(const char **p)
{
    int v = 0;

    while (isspace((unsigned char)**p) || **p == '#')
        *p += **p == '#' ? strcspn(*p, "\n") : 1;
    if (!isdigit((unsigned char)**p))
        return -1;
    for (; isdigit((unsigned char)**p); (*p)++)
        v = v > MAX_SIDE ? v : 10 * v + (**p - '0');
    return v;
}

/* The pixels are in *file, to be freed. */
static int read_ppm(WanImage *img, char **file, const char *path,
                    const WanLog *log)
{
    size_t bytes;
    const char *p;
    int ret = wan_read_file(file, &bytes, path, MAX_PPM, log);

    if (ret < 0)
        return ret;
    p = *file + 2;
    const int is_ppm = bytes > 2 && !strncmp(*file, "P6", 2);
    const int w = is_ppm ? header_number(&p) : 0;
    const int h = is_ppm ? header_number(&p) : 0;
    const int max = is_ppm ? header_number(&p) : 0;

    if (max != 255 || w < 1 || h < 1 || w > MAX_SIDE || h > MAX_SIDE ||
        !isspace((unsigned char)*p))
        return wan_error(log, WAN_INVALIDDATA, "%s: not a PPM of 8 bits (P6) "
                         "with sides of 1 to %d; ffmpeg -i FILE x.ppm makes "
                         "one", path, MAX_SIDE);
    p++;
    if ((int64_t)3 * w * h > (int64_t)bytes - (p - *file))
        return wan_error(log, WAN_INVALIDDATA, "%s: %dx%d pixels are not all "
                         "there", path, w, h);
    *img = (WanImage){ .size = sizeof(*img), .format = WAN_PIX_RGB24,
                       .width = w, .height = h, .data = { (void *)p },
                       .stride = { 3 * (ptrdiff_t)w } };
    return 0;
}

/* ----------------------------------------------------------------- steps */

static int make_steps(WanCacheTable *t, WanModel *m, const WanRequest *rq)
{
    WanProgress p = { 0 };
    WanJob *job;
    int ret = wan_job_open_measure(&job, m, rq);

    while (ret >= 0 && (p.stage != WAN_STAGE_STEPS || p.done < p.total)) {
        ret = wan_job_step(job, &p);
        if (ret >= 0 && p.stage == WAN_STAGE_STEPS)
            fprintf(stderr, "wan-info: step %d of %d, %.1f s\n", p.done,
                    p.total, p.seconds);
    }
    if (ret >= 0)
        wan_stepcache_measured(t, wan_job_cache(job), wan_model_info(m));
    wan_job_close(&job);
    return ret;
}

int calibrate(WanModel *m, WanRequest *rq, const char *const image[2],
              const char *path)
{
    static WanCacheTable t;
    WanImage img[2];
    char *file[2] = { NULL, NULL };
    char note[160];
    int ret = wan_cache_table_writable(path, &m->log);

    for (int i = 0; i < 2 && ret >= 0; i++)
        if (image[i])
            ret = read_ppm(&img[i], &file[i], image[i], &m->log);
    rq->image = image[0] ? &img[0] : NULL;
    rq->last_image = image[1] ? &img[1] : NULL;
    if (ret >= 0)
        ret = make_steps(&t, m, rq);
    snprintf(note, sizeof(note), "%dx%d, %d frames, %d steps, guidance %g, "
             "shift %g, seed %llu", rq->width, rq->height, rq->frames,
             rq->steps, rq->guidance, rq->shift,
             (unsigned long long)rq->seed);
    if (ret >= 0)
        ret = wan_cache_table_write(&t, path, note, &m->log);
    for (int i = 0; i < 2; i++)
        free(file[i]);
    return ret;
}
