/*
 * Checkpoints as people have them on their disks: what is found where, and
 * what is said of links, pipes and directories that are in the way.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <sys/wait.h>

#include "files_util.h"

/* Shards without their index, variants, one part in shards. */
TEST(other_names)
{
    const char *dir = folder("names");
    char path[1500], shard[200];

    link_rest(dir);
    link_golden(dir, "config.json", "wan-t2v-hd128/config.json");
    for (int i = 1; i <= 3; i++) {
        snprintf(shard, sizeof(shard), "diffusion_pytorch_model-0000%d-of-00003"
                 ".safetensors", i);
        link_golden(dir, shard, at("wan-t2v-hd128", shard));
    }
    CHECKF(open_path(dir) == 0, "%s", last_line);
    inside(path, dir, "diffusion_pytorch_model-00002-of-00003.safetensors");
    unlink(path);
    expect(open_path(dir), WAN_ERR(ENOENT), "00002-of-00003");

    dir = folder("variant");
    link_rest(dir);
    link_golden(dir, "config.json", "wan-t2v/config.json");
    link_golden(dir, "diffusion_pytorch_model.bf16.safetensors",
                "wan-t2v/diffusion_pytorch_model.safetensors");
    CHECKF(open_path(dir) == 0, "%s", last_line);
    inside(path, dir, "diffusion_pytorch_model.bf16.safetensors");
    unlink(path);
    expect(open_path(dir), WAN_ERR(ENOENT), "no transformer here");
}

#define ONE "diffusion_pytorch_model.safetensors"
#define HALF "wan22-t2v-a14b/high_noise_model/"
#define OTHER "wan22-t2v-a14b/low_noise_model/"

/* A folder in dir with an expert, its name to inside(). */
static void add_expert(const char *dir, const char *name, const char *from)
{
    char path[1500], file[100];

    inside(path, dir, name);
    if (mkdir(path, 0700) < 0)
        abort();
    snprintf(file, sizeof(file), "%s" ONE, from);
    link_golden(path, ONE, file);
    snprintf(file, sizeof(file), "%sconfig.json", from);
    link_golden(path, "config.json", file);
}

/* Wan 2.2's two experts in Diffusers' folders: half of them is not run in
 * silence. */
TEST(two_experts_of_diffusers)
{
    static const char both[] = "transformer_2/" ONE ": the high-noise and the "
                               "low-noise expert, by their names";
    const char *dir = folder("pair");
    char path[1500];

    link_rest(dir);
    add_expert(dir, "transformer", HALF);
    CHECKF(open_path(dir) == 0 && !*said, "%s", said);
    add_expert(dir, "transformer_2", OTHER);
    expect(open_path(dir), 0, both);
    inside(path, dir, "transformer");
    expect(open_path(path), 0, both);
    inside(path, dir, "transformer/" ONE);
    expect(open_path(path), 0, both);
    inside(path, dir, "transformer_2/" ONE);
    expect(open_path(path), 0, both);
    /* the first is gone */
    inside(path, dir, "transformer/" ONE);
    unlink(path);
    inside(path, dir, "transformer_2/" ONE);
    expect(open_path(path), 0, "low-noise expert, by its name: alone it makes "
           "all steps, and is half a model");
}

/* The boundary of Diffusers' index; one that is none. */
TEST(index_of_diffusers)
{
    const char *dir = folder("index");
    char path[1500];
    WanModelParams p;
    WanModel *m;
    Bytes b = { 0 };

    link_rest(dir);
    add_expert(dir, "transformer", HALF);
    add_expert(dir, "transformer_2", OTHER);
    inside(path, dir, "model_index.json");
    put_str(&b, "{\"boundary_ratio\": 0.75, \"vae\": [\"x\", null]}");
    write_file(path, &b);
    wan_model_params_default(&p);
    p.path = dir;
    p.log = keep_all;
    CHECKF(wan_model_open(&m, &p) == 0, "%s", last_line);
    CHECK(m && wan_model_info(m)->boundary == 0.75 &&
          wan_model_info(m)->experts == 2);
    wan_model_close(&m);
    b = (Bytes){ 0 };
    put_str(&b, "{\"boundary_ratio\": 2}");
    write_file(path, &b);
    expect(open_path(dir), WAN_INVALIDDATA, "model_index.json: "
           "\"boundary_ratio\" must be a number from 0 to 1");
}

TEST(two_experts)
{
    const char *dir = folder("official22");
    char path[1500], two[1500];

    link_rest(dir);
    add_expert(dir, "high_noise_model", HALF);
    expect(open_path(dir), WAN_ERR(ENOENT), "of Wan 2.2's two experts only "
           "high_noise_model is here; looked for a transformer in "
           "low_noise_model");
    inside(path, dir, "high_noise_model/" ONE);
    expect(open_path(path), 0, "high-noise expert, by its name: alone it makes "
           "all steps, and is half a model. The other would be ");
    CHECKF(strstr(said, "official22/low_noise_model/" ONE), "%s", said);

    add_expert(dir, "low_noise_model", OTHER);
    expect(open_path(dir), 0, "");
    expect(open_path(path), 0, "low_noise_model/" ONE ": the high-noise and "
           "the low-noise expert, by their names");
    inside(path, dir, "low_noise_model");
    expect(open_path(path), 0, "the low-noise expert, by their names");

    /* of another shape; one with an image branch */
    inside(two, dir, "low_noise_model/config.json");
    unlink(two);
    link_golden(path, ONE, "wan-t2v/" ONE);
    link_golden(path, "config.json", "wan-t2v/config.json");
    expect(open_path(dir), WAN_INVALIDDATA, "are no pair of experts: the width:"
           " 64 and 96");
    link_golden(path, ONE, "wan-i2v/" ONE);
    link_golden(path, "config.json", "wan-i2v/config.json");
    expect(open_path(dir), WAN_INVALIDDATA, "are no pair of experts");
}

/* ------------------------------------------------------- all in one file */

TEST(all_in_one_file)
{
    const char *dir = folder("checkpoints");
    const char *dit = "wan-t2v/diffusion_pytorch_model.safetensors";
    char path[1500];
    WanModelParams p;
    size_t bytes;
    char *spiece = golden_read("tiny/wan-t2v/google/umt5-xxl/spiece.model",
                               &bytes);
    int64_t n = (int64_t)bytes;
    Maker m = { { 0 }, { 0 } };
    WanModel *model, *plain;

    link_golden(dir, "config.json", "wan-t2v/config.json");
    inside(path, dir, "all.safetensors");
    add_file(&m, "model.diffusion_model.", dit);
    add_file(&m, "text_encoders.umt5xxl.transformer.",
             "wan-t2v/models_t5_umt5-xxl-enc-bf16.pth");
    add_file(&m, "vae.", "wan-t2v/Wan2.1_VAE.pth");
    add(&m, "text_encoders.spiece_model", "U8", 1, &n, spiece, n);
    write_all(&m, path);
    CHECKF(open_path(path) == 0, "%s", last_line);
    wan_model_params_default(&p);
    p.path = path;
    CHECK(wan_model_probe(&p) == 0);
    CHECK(wan_model_open(&model, &p) == 0);
    p.path = golden_path("tiny/wan-t2v");
    CHECK(wan_model_open(&plain, &p) == 0);
    CHECKF(model && plain && wan_model_info(model)->parameters ==
           wan_model_info(plain)->parameters, "%lld",
           (long long)wan_model_info(model)->parameters);
    wan_model_close(&model);
    wan_model_close(&plain);
    p.path = path;

    /* without its VAE, which is then looked for beside */
    add_file(&m, "net.", dit);
    add_file(&m, "text_encoders.umt5xxl.transformer.",
             "wan-t2v/models_t5_umt5-xxl-enc-bf16.pth");
    add(&m, "text_encoders.spiece_model", "U8", 1, &n, spiece, n);
    write_all(&m, path);
    expect(open_path(path), WAN_ERR(ENOENT), "no VAE here");
    p.log = keep_all;
    expect(wan_model_probe(&p), WAN_ERR(ENOENT), "no VAE here");
    link_golden(dir, "Wan2.1_VAE.pth", "wan-t2v/Wan2.1_VAE.pth");
    CHECKF(open_path(path) == 0, "%s", last_line);
    free(spiece);
}

/* ------------------------------------------------- what is in the way */

TEST(pipes)
{
    static const char dit[] = "diffusion_pytorch_model.safetensors";
    const char *const names[] = { "config.json", "spiece.model",
                                  "Wan2.1_VAE.pth", dit };
    const char *dir = official("pipes");
    char path[1500], target[PATH_MAX];

    for (int i = 0; i < 4; i++) {
        inside(path, dir, names[i]);
        if (!realpath(path, target))
            abort();
        unlink(path);
        if (mkfifo(path, 0600) < 0)
            abort();
        expect(open_path(dir), WAN_INVALIDDATA, names[i]);
        unlink(path);
        if (symlink(target, path) < 0)
            abort();
    }
    CHECKF(open_path(dir) == 0, "%s", last_line);
}

TEST(links_and_directories)
{
    const char *dir = official("links");
    char path[1500], name[300];
    WanModelParams p;

    inside(path, dir, "config.json");
    unlink(path);
    if (symlink("config.json", path) < 0)
        abort();
    expect(open_path(dir), WAN_ERR(ELOOP), "config.json");
    unlink(path);
    if (symlink("nothing", path) < 0)
        abort();
    expect(open_path(dir), WAN_ERR(ENOENT), "config.json: a link that leads "
           "nowhere");
    unlink(path);
    if (mkdir(path, 0700) < 0)
        abort();
    expect(open_path(dir), WAN_ERR(EISDIR), "config.json");
    rmdir(path);
    link_golden(dir, "config.json", "wan-t2v/config.json");
    /* of a part that may have other names too, if none is there */
    inside(path, dir, "Wan2.1_VAE.pth");
    unlink(path);
    if (symlink("nothing", path) < 0)
        abort();
    expect(open_path(dir), WAN_ERR(ENOENT), "no VAE here: Wan2.1_VAE.pth is "
           "there but no file; looked for");
    link_golden(dir, "Wan2.1_VAE.safetensors", "wan-t2v/Wan2.1_VAE.pth");
    CHECKF(open_path(dir) == 0, "%s", last_line);

    wan_model_params_default(&p);
    p.path = dir;
    inside(path, dir, "loop");
    if (symlink("loop", path) < 0)
        abort();
    p.vae = path;
    expect(open_model(&p), WAN_ERR(ELOOP), "loop");
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    p.vae = name;
    expect(open_model(&p), WAN_ERR(ENAMETOOLONG), "xxx");
    expect(open_path("/dev/null/x"), WAN_ERR(ENOENT), "/dev/null/x");
}

/* As nobody, in a process of its own: root may look everywhere. */
TEST(no_permission)
{
    const char *dir = official("closed"), *vae = folder("closed_vae");
    WanModelParams p;
    int status = 0;
    pid_t child;

    chmod(scratch_dir, 0755);
    chmod(dir, 0755);
    link_golden(vae, "Wan2.1_VAE.pth", "wan-t2v/Wan2.1_VAE.pth");
    chmod(vae, 0600);
    fflush(stdout);
    child = fork();
    if (!child) {
        test_failures = 0;
        if (!geteuid() && seteuid(65534) < 0)
            _exit(0);
        wan_model_params_default(&p);
        p.path = dir;
        p.vae = vae;
        expect(open_model(&p), WAN_ERR(EACCES), "closed_vae");
        expect(open_path(vae), WAN_ERR(EACCES), "closed_vae");
        fflush(stdout);
        _exit(test_failures != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
    chmod(vae, 0700);
}

/* The right size, and zeros from somewhere on. */
TEST(stopped_download)
{
    const char *dir = official("stopped");
    const char *name = "diffusion_pytorch_model.safetensors";
    size_t bytes;
    char *file = golden_read("tiny/wan-t2v/diffusion_pytorch_model.safetensors",
                             &bytes);
    Bytes b = { 0 };
    char path[1500];

    memset(file + 200000, 0, bytes - 200000);
    put(&b, file, bytes);
    inside(path, dir, name);
    unlink(path);
    write_file(path, &b);
    expect(open_path(dir), WAN_INVALIDDATA, "is all zeros");
    free(file);
}

int main(void)
{
    RUN(other_names);
    RUN(two_experts_of_diffusers);
    RUN(index_of_diffusers);
    RUN(two_experts);
    RUN(all_in_one_file);
    RUN(pipes);
    RUN(links_and_directories);
    RUN(no_permission);
    RUN(stopped_download);
    scratch_clean();
    return test_end();
}
