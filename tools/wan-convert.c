/*
 * wan-convert: a checkpoint into one file, in other types.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "convert.h"

#define TOOL "wan-convert"
#include "tool.h"

static const char usage_text[] =
"usage: wan-convert MODEL OUT [options]\n"
"\n"
"Write a checkpoint with all its parts and its tokenizer into one file, which\n"
"is then a MODEL of its own, and read it back. Nothing is overwritten.\n"
"\n"
"  MODEL               a directory or a transformer file, in any of the forms\n"
"                      that libwan reads\n"
"  OUT                 a name that ends in .gguf or .safetensors; of Wan 2.2's\n"
"                      two experts the name says which the file holds:\n"
"                      high_noise with all other parts, low_noise alone; two\n"
"                      such files find each other when they are opened\n"
"  --model2 F          the low-noise expert, where MODEL is the other one alone\n"
"  --transformer TYPE, --text-encoder TYPE, --vae TYPE, --clip TYPE\n"
"                      the type of the part's matrices [keep]\n"
"  --text-encoder F, --vae F, --clip F, --tokenizer F\n"
"                      other files than the model's own; an option may be\n"
"                      given twice, with a file and with a type (a file that\n"
"                      is called like a type is ./TYPE)\n"
"  --lora LIST         FILE[=STRENGTH][@high|@low][|FILE...], merged into the\n"
"                      transformer\n"
"  --threads N         CPU threads [one a core]\n"
"  --dry-run           say what it would be, and write nothing\n"
"\n"
"Types: f32, f16, bf16 and, in .gguf, q8_0, q6_k, q5_k, q4_k, q3_k, q2_k, q5_1,\n"
"q5_0, q4_1, q4_0; keep: the type it has; none: without that part. The VAE, all\n"
"convolutions, is f32, f16 or bf16.\n"
"\n"
"In a type of blocks (q...) are the products of the transformer's blocks and of\n"
"CLIP's and all of the text encoder, whose table of tokens has six bits at\n"
"least. The transformer's embeddings and head and the kernels of convolutions\n"
"are bf16 if they were, else f16; gains, biases, modulation and tables of\n"
"positions are f32 in any case. Where rows are not whole blocks of 256, the type\n"
"of 32 next to it is taken, and if they are none of 32 either, f16; how often is\n"
"said.\n"
"\n"
"Memory: some 70 MB beside what is mapped; with --lora also one matrix in f32\n"
"(0.3 GB in 14B). An unfinished file is named OUT.N.part, and removed when\n"
"something fails or a signal comes.\n"
"\n"
"  wan-convert Wan2.1-T2V-1.3B wan.gguf \\\n"
"      --transformer q8_0 --text-encoder q4_k --vae f16\n"
"  wan-info wan.gguf\n";

typedef struct Options {
    WanModelParams model;
    WanConvert convert;
    int errors;                         // lines logged
    int shown;                          // percent on the terminal
} Options;

static volatile sig_atomic_t signalled;

static void on_signal(int number)
{
    signalled = number;
}

/* What whoever started this ignores (nohup) stays ignored. */
static void watch(int number)
{
    const struct sigaction act = { .sa_handler = on_signal };
    struct sigaction was;

    if (!sigaction(number, NULL, &was) && was.sa_handler != SIG_IGN)
        sigaction(number, &act, NULL);
}

static int interrupted(void *opaque)
{
    (void)opaque;
    return signalled;
}

static void show_line(void *opaque, enum WanLogLevel level, const char *line)
{
    Options *o = opaque;

    o->errors += level == WAN_LOG_ERROR;
    fprintf(stderr, "%swan-convert: %s\n", o->shown ? "\n" : "", line);
    o->shown = 0;
}

static void show_progress(void *opaque, double share)
{
    Options *o = opaque;
    const int percent = (int)(100 * share);

    if (percent > o->shown)
        fprintf(stderr, "\r%3d %%", o->shown = percent);
}

/* -------------------------------------------------------- command line */

/* A type, or the name of a file. */
static int parse_part(Options *o, WanPart part, const char *text)
{
    const char **const file[] = {
        [WAN_PART_DIT] = NULL, [WAN_PART_T5] = &o->model.text_encoder,
        [WAN_PART_VAE] = &o->model.vae, [WAN_PART_CLIP] = &o->model.clip,
    };
    int type;

    if (wan_convert_type(&type, part, text) >= 0) {
        o->convert.type[part] = type;
        return 0;
    }
    if (part == WAN_PART_DIT)
        return usage("--transformer %s: no type that can be written", text);
    if (wan_convert_type(&type, WAN_PART_DIT, text) >= 0)
        return usage("--vae %s: f32, f16 and bf16 can be, it is all "
                     "convolutions", text);
    *file[part] = text;
    return 0;
}

/* 0, -1: help was shown, or the exit status of wrong use. */
static int parse(Options *o, int argc, char **argv)
{
    static const struct option known[] = {
        { "transformer", 1, NULL, 'd' }, { "text-encoder", 1, NULL, 'x' },
        { "vae", 1, NULL, 'v' }, { "clip", 1, NULL, 'c' },
        { "tokenizer", 1, NULL, 'k' }, { "lora", 1, NULL, 'l' },
        { "model2", 1, NULL, '2' },
        { "threads", 1, NULL, 't' }, { "dry-run", 0, NULL, 'n' },
        { "help", 0, NULL, 'h' }, { 0 },
    };
    int c, ret = 0;

    *o = (Options){ .convert = { .model = &o->model } };
    for (int i = 0; i < WAN_CONVERT_PARTS; i++)
        o->convert.type[i] = WAN_CONVERT_KEEP;
    wan_model_params_default(&o->model);
    o->model.device = "cpu";
    o->model.log = show_line;
    o->model.log_opaque = o;
    o->model.log_level = WAN_LOG_WARNING;
    o->model.interrupted = interrupted;
    while (!ret && (c = next_option(argc, argv, known)) != -1) {
        switch (c) {
        case 'd': ret = parse_part(o, WAN_PART_DIT, optarg); break;
        case 'x': ret = parse_part(o, WAN_PART_T5, optarg); break;
        case 'v': ret = parse_part(o, WAN_PART_VAE, optarg); break;
        case 'c': ret = parse_part(o, WAN_PART_CLIP, optarg); break;
        case 'k': o->model.tokenizer = optarg; break;
        case 'l': o->model.lora = optarg; break;
        case '2': o->model.model2 = optarg; break;
        case 't':
            ret = parse_int(&o->model.threads, "threads", optarg, 1024);
            break;
        case 'n': o->convert.dry = 1; break;
        case 'h':
            fputs(usage_text, stdout);
            return -1;
        default:
            return usage("%s is not known or lacks its value",
                         argv[optind - 1]);
        }
    }
    if (ret)
        return ret;
    if (optind != argc - 2)
        return usage("MODEL and OUT, not %s", optind < argc - 2 ? "more"
                                                                : "less");
    o->model.path = argv[optind];
    o->convert.out = argv[optind + 1];
    return 0;
}

/* --------------------------------------------------------------- report */

/* "  transformer   825 tensors, 1.518 GB: Q8_0 1.5 GB (error 0.52 %), ..." */
static void show_part(const WanConvertTally *tally, const char *name)
{
    int tensors = 0;
    int64_t bytes = 0;
    const char *between = ": ";

    for (int t = 0; t < WAN_NB_TYPES; t++) {
        tensors += tally[t].tensors;
        bytes += tally[t].bytes;
    }
    if (!tensors)
        return;
    printf("  %-13s %d tensors, %.3f GB", name, tensors, bytes / 1e9);
    for (int t = 0; t < WAN_NB_TYPES; t++) {
        if (!tally[t].tensors)
            continue;
        printf("%s%s %.3f GB", between, wan_type_name(t),
               tally[t].bytes / 1e9);
        if (tally[t].error > 0)
            printf(" (error %.2g %%)",
                   100 * sqrt(tally[t].error / tally[t].norm));
        between = ", ";
    }
    putchar('\n');
}

static void show(const WanConvertReport *r, const Options *o)
{
    static const char *const name[] = {
        [WAN_PART_DIT] = "transformer", [WAN_PART_T5] = "text encoder",
        [WAN_PART_VAE] = "VAE", [WAN_PART_CLIP] = "CLIP",
    };

    printf("%s: %.3f GB%s\n", o->convert.out, r->bytes / 1e9,
           o->convert.dry ? " it would be" : ", written and read back");
    for (int i = 0; i < WAN_CONVERT_PARTS; i++)
        show_part(r->tally[i], name[i]);
    if (r->tokenizer)
        printf("  tokenizer     %.3f GB\n", r->tokenizer / 1e9);
    if (r->fallen)
        printf("  %d matrices are in another type than asked for: their rows "
               "are not whole blocks\n", r->fallen);
    if (r->left)
        printf("  %d tensors that libwan does not read are left out\n",
               r->left);
}

int main(int argc, char **argv)
{
    WanConvertReport r;
    Options o;
    int ret = parse(&o, argc, argv);

    if (ret)
        return ret < 0 ? 0 : ret;
    watch(SIGINT);
    watch(SIGTERM);
    watch(SIGHUP);
    signal(SIGXFSZ, SIG_IGN);           // a file size limit is an error of
                                        // writing
    if (isatty(STDERR_FILENO)) {
        o.convert.progress = show_progress;
        o.convert.progress_opaque = &o;
    }
    ret = wan_convert(&r, &o.convert);
    if (o.shown)
        fprintf(stderr, "\r      \r");
    if (ret == WAN_CANCELLED && signalled) {
        signal(signalled, SIG_DFL);     // ended by it, as the shell sees it
        raise(signalled);
    }
    if (ret < 0) {
        if (!o.errors)
            fprintf(stderr, "wan-convert: %s\n", wan_strerror(ret));
        return 1;
    }
    show(&r, &o);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "wan-convert: standard output can't be written\n");
        return 1;
    }
    return 0;
}
