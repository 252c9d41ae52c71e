/*
 * Few-step families: how each is sampled, and what its files are known by.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <ctype.h>
#include <string.h>

#include "preset.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static const double four_steps[] = { 1000, 750, 500, 250 };
static const double ten_steps[] = { 1000, 900, 800, 700, 600,
                                    500, 400, 300, 200, 100 };

/* Of two rows with one name the narrower comes first. Words are small letters
 * and digits, as last_part() makes them. */
static const WanPreset presets[] = {
    { .name = "lightx2v", .family = "LightX2V's step distillation",
      .sampler = WAN_SAMPLER_EULER, .steps = 4, .shift = 5, .warp = 1,
      .words = { { "lightx2v", "4step" }, { "lightx2v", "distill" },
                 { "wan21distill", "" } } },
    { .name = "fastwan", .family = "FastWan",
      .sampler = WAN_SAMPLER_DMD, .steps = 3, .most = 3, .shift = 8,
      .timesteps = { 1000, 757, 522 },
      .words = { { "fastwan", "" } },
      .tensor = "to_gate_compress" },
    { .name = "causvid", .family = "CausVid 14B", .dim = 5120,
      .sampler = WAN_SAMPLER_EULER, .steps = 9, .most = 9,
      .timesteps = { 999, 934, 862, 756, 603, 410, 250, 140, 74 },
      .words = { { "causvid", "" } } },
    { .name = "causvid", .family = "CausVid, bidirectional",
      .sampler = WAN_SAMPLER_DMD, .steps = 3, .most = 4, .shift = 8,
      .timesteps = { 1000, 757, 522 },      // or 4 even ones
      .words = { { "causvid", "" } } },
    { .name = "rcm", .family = "TurboWan (rCM)",
      .sampler = WAN_SAMPLER_RCM, .steps = 4, .most = WAN_RCM_STEPS,
      .words = { { "turbowan", "" } },
      .tensor = "attn_op.local_attn.proj_l" },
#define CAUSAL .sampler = WAN_SAMPLER_DMD, .shift = 5, .warp = 1
    { .name = "self-forcing", .family = "Self-Forcing", CAUSAL, .steps = 4,
      .words = { { "selfforcing", "" } }, .causal = { .block = 3 } },
    { .name = "causal-forcing", .family = "Causal-Forcing, chunk-wise", CAUSAL,
      .steps = 4, .words = { { "causalforcing", "" }, { "chunkwise", "" } },
      .causal = { .block = 3 } },
    { .name = "causal-forcing-frame", .family = "Causal-Forcing, frame-wise",
      CAUSAL, .steps = 4,
      .words = { { "framewise", "" }, { "causalforcing", "framewise" } },
      .causal = { .block = 1 } },
    { .name = "causal-forcing-frame", .family = "Causal-Forcing++ in 2 steps",
      CAUSAL, .steps = 2, .words = { { "framewise", "2step" } },
      .causal = { .block = 1, .nb_first = 4, .first = four_steps } },
    { .name = "causal-forcing-frame", .family = "Causal-Forcing++ in 1 step",
      CAUSAL, .steps = 1, .words = { { "framewise", "1step" } },
      .causal = { .block = 1, .nb_first = 4, .first = four_steps } },
    { .name = "longlive", .family = "LongLive", CAUSAL, .steps = 4,
      .words = { { "longlive", "" } },
      .causal = { .block = 3, .window = 12, .sink = 3, .recache = 1 } },
#undef CAUSAL
    { .name = "demo", .family = "libwan's causal demo model",
      .sampler = WAN_SAMPLER_DMD, .steps = 4, .shift = 3, .warp = 1,
      .causal = { .block = 1, .window = 6, .nb_first = 10,
                  .first = ten_steps } },
};

static int fits(const WanPreset *p, int dim)
{
    return !p->dim || p->dim == dim;
}

int wan_preset_find(const WanPreset **out, const char *name, int dim,
                    const WanLog *log)
{
    *out = NULL;
    if (!strcmp(name, "none"))
        return 0;
    for (size_t i = 0; i < COUNT(presets); i++)
        if (!strcmp(name, presets[i].name) && fits(&presets[i], dim)) {
            *out = &presets[i];
            return 0;
        }
    return wan_error(log, WAN_ERR(EINVAL), "option preset: %s is none; auto, "
                     "none, lightx2v, fastwan, causvid, rcm, self-forcing, "
                     "causal-forcing, causal-forcing-frame, longlive and demo "
                     "are", name);
}

/* ---------------------------------------------------------- recognition */

/* The last part of the first n bytes of a path, as small letters and digits
 * alone; returns where it begins. */
static size_t last_part(char *dst, size_t size, const char *path, size_t n)
{
    size_t begin = n, len = 0;

    while (begin && path[begin - 1] != '/')
        begin--;
    for (size_t i = begin; i < n && len + 1 < size; i++)
        if (isalnum((unsigned char)path[i]))
            dst[len++] = (char)tolower((unsigned char)path[i]);
    dst[len] = 0;
    return begin;
}

static const WanPreset *self_forcing(void)
{
    size_t i = 0;

    while (strcmp(presets[i].name, "self-forcing"))
        i++;
    return &presets[i];
}

/* Two words tell more than one. The second of a causal model may be in the
 * folder above: framewise/causal_forcing.pt. */
static const WanPreset *by_words(const char *part, const char *above, int dim)
{
    const WanPreset *found = NULL;
    int words = 0;

    for (size_t i = 0; i < COUNT(presets); i++)
        for (int k = 0; k < 3 && presets[i].words[k][0]; k++) {
            const WanPreset *p = &presets[i];
            const char *second = p->words[k][1];
            const int n = *second ? 2 : 1;

            if (n > words && fits(p, dim) && strstr(part, p->words[k][0]) &&
                (strstr(part, second) ||
                 (p->causal.block && strstr(above, second)))) {
                found = p;
                words = n;
            }
        }
    return found;
}

/* The file's own name, then those of up to four folders: a hub's cache has
 * models--OWNER--NAME/snapshots/COMMIT/transformer/. CausVid's autoregressive
 * checkpoints are causal models, of lists that no row has. */
static const WanPreset *by_path(const char *path, int dim, int *causal)
{
    size_t n = strlen(path);

    for (int i = 0; i < 5 && n; i++) {
        char part[256], above[256];
        const WanPreset *p;

        n = last_part(part, sizeof(part), path, n);
        last_part(above, sizeof(above), path, n - (n > 0));
        if ((p = by_words(part, above, dim)))
            return p;
        if (strstr(part, "wan2") || (*causal = !!strstr(part, "autoregressive")))
            break;
        n -= n > 0;                         // the slash
    }
    return NULL;
}

static int has_tensor(const WanWeights *w, const char *word)
{
    for (int i = 0; i < wan_weights_count(w); i++) {
        const char *name = wan_weights_at(w, i)->name;

        if (!strncmp(name, "blocks.0.", 9) && strstr(name, word))
            return 1;
    }
    return 0;
}

const WanPreset *wan_preset_recognise(const char **by, const char *path,
                                      const WanWeights *w, int dim)
{
    const WanPreset *p;
    const char *dict = w ? wan_weights_dict(w) : NULL;
    int causal = 0;

    for (size_t i = 0; w && i < COUNT(presets); i++)
        if (presets[i].tensor && fits(&presets[i], dim) &&
            has_tensor(w, presets[i].tensor)) {
            *by = presets[i].tensor;
            return &presets[i];
        }
    *by = "its name";
    if ((p = by_path(path, dim, &causal)) || causal || !dict ||
        (strcmp(dict, "generator") && strcmp(dict, "generator_ema")))
        return p;
    *by = dict;
    return self_forcing();
}

int wan_preset_check(const char *path, const WanWeights *w, const WanLog *log)
{
    char part[256], above[256];
    const size_t n = last_part(part, sizeof(part), path, strlen(path));

    last_part(above, sizeof(above), path, n - (n > 0));
    if (strstr(part, "rollingforcing") || strstr(above, "rollingforcing") ||
        (strstr(part, "longvideo") && strstr(above, "chunkwise")))
        return wan_error(log, WAN_ERR(ENOSYS), "%s: a Rolling Forcing model, "
                         "whose window of blocks at several noise levels is "
                         "not supported", path);
    if (strstr(part, "meanflow"))
        return wan_error(log, WAN_ERR(ENOSYS), "%s: a mean-flow model, which "
                         "takes a second timestep, is not supported", path);
    if (has_tensor(w, "attn_op.local_attn.proj_l"))
        wan_log(log, WAN_LOG_WARNING, "%s: tuned with sparse-linear attention "
                "(SLA), but run with full attention, which makes it a "
                "different model from what its authors show", path);
    return 0;
}

const double *wan_preset_timesteps(const WanPreset *p, const WanSampling *s)
{
    const int n = COUNT(p->timesteps);

    return s->steps <= n && p->timesteps[s->steps - 1] && !s->warp &&
           (s->sampler == WAN_SAMPLER_EULER || s->sampler == WAN_SAMPLER_DMD)
           ? p->timesteps : NULL;
}
