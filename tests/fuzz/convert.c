/*
 * Fuzz target: a transformer's file, opened and converted. The last byte says
 * into what.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#include <sys/mman.h>
#include <unistd.h>

#include "../../wan/convert.h"
#include "weights_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int types[] = { WAN_CONVERT_KEEP, WAN_F32, WAN_F16, WAN_BF16,
                                 WAN_Q8_0, WAN_Q4_K, WAN_Q6_K, WAN_Q5_1 };
    const uint8_t how = size ? data[size - 1] : 0;
    char path[32], out[64];
    WanModelParams p;
    WanConvertReport r;
    int ret, fd = memfd_create("model", MFD_CLOEXEC);

    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    snprintf(out, sizeof(out), "/tmp/wan-fuzz-%d.%s", (int)getpid(),
             how & 8 ? "safetensors" : "gguf");
    unlink(out);
    wan_model_params_default(&p);
    p.path = path;
    p.device = "ref";
    p.threads = 1;
    p.log = fuzz_line;
    p.log_level = WAN_LOG_DEBUG;

    const WanConvert c = {
        .model = &p, .out = out,
        .type = { types[how & 7], WAN_CONVERT_NONE, WAN_CONVERT_NONE,
                  WAN_CONVERT_NONE },
    };

    ret = wan_convert(&r, &c);
    if ((ret < 0) != (access(out, F_OK) != 0) || ret == WAN_ERR(EIO))
        abort();                    // half a file, or not what was meant
    unlink(out);
    close(fd);
    return 0;
}
