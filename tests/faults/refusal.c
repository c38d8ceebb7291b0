/* Preloaded, this makes storage refuse: the n-th call that writes below a folder fails with an error number, once or from
 * then on. Calls that write: opening a file to write, writing, syncing, renaming, linking, making a folder, removing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char root[PATH_MAX];
static atomic_int armed, calls, at, error, lasting;
static char refused_call[PATH_MAX + 32];

/* n = 0 only counts. */
void refusal_arm(const char *folder, int n, int number, int keep_on) {
    strncpy(root, folder, sizeof root - 1);
    calls = 0;
    at = n;
    error = number;
    lasting = keep_on;
    refused_call[0] = 0;
    armed = 1;
}

int refusal_disarm(void) {
    armed = 0;
    return calls;
}
const char *refusal_of(void) { return refused_call; }

static int refuse_path(const char *call, const char *path) {
    if (!armed || path == NULL || strncmp(path, root, strlen(root)) != 0) return 0;
    int n = ++calls;
    if (at == 0 || (n != at && !(lasting && n > at))) return 0;
    if (n == at) snprintf(refused_call, sizeof refused_call, "%s %s", call, path);
    errno = error;
    return 1;
}

static int refuse_handle(const char *call, int handle) {
    if (!armed) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return refuse_path(call, path);
}

/* Paths of our callers are absolute; one that is relative to a folder's handle is brought below that folder. */
static int refuse_at(const char *call, int folder, const char *path) {
    if (!armed || path == NULL) return 0;
    if (path[0] == '/' || folder == AT_FDCWD) return refuse_path(call, path);
    return refuse_handle(call, folder);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & O_CREAT))

#define OPEN(name)                                                                  \
    int name(const char *path, int flags, ...) {                                    \
        va_list more; va_start(more, flags);                                        \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;   \
        va_end(more);                                                               \
        if (WRITES(flags) && refuse_path("open", path)) return -1;                  \
        return REAL(name)(path, flags, mode);                                       \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                \
    int name(int folder, const char *path, int flags, ...) {                        \
        va_list more; va_start(more, flags);                                        \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;   \
        va_end(more);                                                               \
        if (WRITES(flags) && refuse_at("open", folder, path)) return -1;            \
        return REAL(name)(folder, path, flags, mode);                               \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int handle, const void *bytes, size_t size) {
    return refuse_handle("write", handle) ? -1 : REAL(write)(handle, bytes, size);
}
ssize_t pwrite(int handle, const void *bytes, size_t size, off_t offset) {
    return refuse_handle("write", handle) ? -1 : REAL(pwrite)(handle, bytes, size, offset);
}
ssize_t pwrite64(int handle, const void *bytes, size_t size, off64_t offset) {
    return refuse_handle("write", handle) ? -1 : REAL(pwrite64)(handle, bytes, size, offset);
}
int fsync(int handle) { return refuse_handle("fsync", handle) ? -1 : REAL(fsync)(handle); }
int fdatasync(int handle) { return refuse_handle("fsync", handle) ? -1 : REAL(fdatasync)(handle); }
int rename(const char *from, const char *to) { return refuse_path("rename", to) ? -1 : REAL(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
    return refuse_at("rename", b, to) ? -1 : REAL(renameat)(a, from, b, to);
}
int link(const char *from, const char *to) { return refuse_path("link", to) ? -1 : REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    return refuse_at("link", b, to) ? -1 : REAL(linkat)(a, from, b, to, flags);
}
int mkdir(const char *path, mode_t mode) { return refuse_path("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) {
    return refuse_at("mkdir", folder, path) ? -1 : REAL(mkdirat)(folder, path, mode);
}
int unlink(const char *path) { return refuse_path("unlink", path) ? -1 : REAL(unlink)(path); }
int unlinkat(int folder, const char *path, int flags) {
    return refuse_at("unlink", folder, path) ? -1 : REAL(unlinkat)(folder, path, flags);
}
