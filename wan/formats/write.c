/*
 * Writing checkpoints: bytes put together, and a file that is there whole or
 * not at all.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "write.h"

void wan_put(WanBytes *b, const void *data, size_t n)
{
    if (b->failed)
        return;
    if (n > b->size - b->n) {
        const size_t size = 2 * (b->n + n);
        uint8_t *p = realloc(b->data, size);

        if (!p) {
            b->failed = 1;
            return;
        }
        b->data = p;
        b->size = size;
    }
    if (n)
        memcpy(b->data + b->n, data, n);
    b->n += n;
}

void wan_put_le(WanBytes *b, uint64_t v, int n)
{
    uint8_t p[8];

    for (int i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> 8 * i);
    wan_put(b, p, n);
}

void wan_putf(WanBytes *b, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0 || n >= (int)sizeof(text))
        b->failed = 1;
    else
        wan_put(b, text, n);
}

/* -------------------------------------------------------------- the file */

/* Data goes to the disk in between, so that no call waits for all of it: a
 * signal is seen within such a piece. */
#define SYNC_BYTES (128 << 20)

static int exists(const char *path)
{
    struct stat st;

    return !lstat(path, &st);
}

static int is_taken(const WanOut *o)
{
    return wan_error(o->log, WAN_ERR(EEXIST), "%s: is there already, and is "
                     "not overwritten", o->path);
}

int wan_out_open(WanOut *o, const char *path, const WanLog *log)
{
    *o = (WanOut){ .fd = -1, .log = log };
    if (!(o->path = strdup(path)) ||
        asprintf(&o->part, "%s.%ld.part", path, (long)getpid()) < 0) {
        o->part = NULL;
        return wan_error_memory(log, path, "its name");
    }
    if (exists(path))
        return is_taken(o);
    o->fd = open(o->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return o->fd < 0 ? wan_error_file(log, o->part, errno) : 0;
}

int wan_out_space(const WanOut *o, int64_t bytes)
{
    struct statvfs fs;
    double left;

    if (fstatvfs(o->fd, &fs) < 0)
        return wan_error_file(o->log, o->part, errno);
    left = (double)fs.f_bavail * (double)fs.f_frsize;
    if (left < (double)bytes)
        return wan_error(o->log, WAN_ERR(ENOSPC), "%s: %.3f GB are needed, "
                         "%.3f GB are free there", o->path, bytes / 1e9,
                         left / 1e9);
    return 0;
}

int wan_out_put(WanOut *o, const void *data, int64_t n)
{
    const char *p = data;

    while (n > 0) {
        const ssize_t done = write(o->fd, p, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return wan_error_file(o->log, o->part, done ? errno : ENOSPC);
        p += done;
        n -= done;
        o->pos += done;
    }
    if (o->pos - o->synced >= SYNC_BYTES) {
        o->synced = o->pos;
        if (fdatasync(o->fd) < 0)
            return wan_error_file(o->log, o->part, errno);
    }
    return 0;
}

int wan_out_pad(WanOut *o, int64_t pos)
{
    static const char zeros[4096];
    int ret = 0;

    while (!ret && o->pos < pos)
        ret = wan_out_put(o, zeros, pos - o->pos < (int64_t)sizeof(zeros)
                                    ? pos - o->pos : (int64_t)sizeof(zeros));
    return ret;
}

int wan_out_sync(WanOut *o)
{
    if (fsync(o->fd) < 0)
        return wan_error_file(o->log, o->part, errno);
    posix_fadvise(o->fd, 0, 0, POSIX_FADV_DONTNEED);    // a hint
    return 0;
}

/* The new name outlives a crash. Not every file system can promise that. */
static void sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = !slash ? strdup(".") :
                strndup(path, slash == path ? 1 : (size_t)(slash - path));
    const int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(dir);
}

/* Only to a name that nobody has; ENOSYS where that can't be asked for. */
static int rename_new(const char *from, const char *to)
{
#ifdef RENAME_NOREPLACE
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
#else
    (void)from;
    (void)to;
    errno = ENOSYS;
    return -1;
#endif
}

int wan_out_finish(WanOut *o)
{
    int ret = rename_new(o->part, o->path);

    if (ret < 0 && (errno == EINVAL || errno == ENOSYS)) {
        if (exists(o->path))            // a file system without that promise
            return is_taken(o);
        ret = rename(o->part, o->path);
    }
    if (ret < 0)
        return errno == EEXIST ? is_taken(o)
                               : wan_error_file(o->log, o->path, errno);
    sync_folder(o->path);
    free(o->part);
    o->part = NULL;
    return 0;
}

void wan_out_close(WanOut *o)
{
    if (o->fd >= 0) {
        close(o->fd);
        if (o->part)
            unlink(o->part);
    }
    free(o->path);
    free(o->part);
    *o = (WanOut){ .fd = -1 };
}
