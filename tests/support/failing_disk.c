// A disk that fails, for a process that is started with this library in LD_PRELOAD: below the
// folder $DISK_BELOW, the call number $DISK_FAILS (from 1) that writes, syncs, cuts or renames
// fails with $DISK_ERRNO. One that is full ($DISK_FULL) takes half of what that call writes, and
// nothing after it, but files may be cut. The calls are listed in $DISK_LOG. All of it is read at each call, so that a
// fork has settings, and a count, of its own.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int count;

static int below(const char *path) {
    const char *folder = getenv("DISK_BELOW");
    size_t n = folder ? strlen(folder) : 0;
    return n && !strncmp(path, folder, n) && (path[n] == '/' || !path[n]);
}

static int number(const char *name) {
    const char *value = getenv(name);
    return value ? atoi(value) : 0;
}

static void note(int n, const char *call, const char *path) {
    char line[PATH_MAX + 64];
    int size = snprintf(line, sizeof line, "%d %s %s\n", n, call, path);
    int fd = syscall(SYS_openat, AT_FDCWD, getenv("DISK_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, size);
    syscall(SYS_close, fd);
}

static int fails(const char *call, const char *path) {  // 1: the first time, 2: and after it
    if (!below(path)) return 0;
    int n = __sync_add_and_fetch(&count, 1), at = number("DISK_FAILS");
    if (getenv("DISK_LOG")) note(n, call, path);
    if (!at || n < at || (n > at && !number("DISK_FULL"))) return 0;
    if (n > at && !strncmp(call, "ftruncate", 9)) return 0;  // which a full disk can do
    errno = number("DISK_ERRNO");
    return n == at ? 1 : 2;
}

static int fails_fd(const char *call, int fd) {
    char link[64], path[PATH_MAX];
    if (!getenv("DISK_BELOW")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return fails(call, path);
}

static int fails_at(const char *call, int folder, const char *name) {  // of renameat
    char link[64], path[PATH_MAX], whole[2 * PATH_MAX];
    if (!getenv("DISK_BELOW")) return 0;
    if (*name == '/') return fails(call, name);
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    snprintf(whole, sizeof whole, "%s/%s", path, name);
    return fails(call, whole);
}

#define FD(result, name, fd, params, args)                                 \
    result name params {                                                   \
        static result (*real) params;                                      \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);              \
        return fails_fd(#name, fd) ? -1 : real args;                       \
    }

ssize_t write(int fd, const void *b, size_t n) {
    int why = fails_fd("write", fd);
    if (why == 1 && number("DISK_FULL") && n > 1) n /= 2;
    else if (why) return -1;
    return syscall(SYS_write, fd, b, n);
}

FD(ssize_t, writev, fd, (int fd, const struct iovec *v, int n), (fd, v, n))
FD(ssize_t, pwrite, fd, (int fd, const void *b, size_t n, off_t at), (fd, b, n, at))
FD(ssize_t, pwrite64, fd, (int fd, const void *b, size_t n, off64_t at), (fd, b, n, at))
FD(ssize_t, pwritev, fd, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
FD(ssize_t, pwritev64, fd, (int fd, const struct iovec *v, int n, off64_t at), (fd, v, n, at))
FD(ssize_t, sendfile, to, (int to, int fd, off_t *at, size_t n), (to, fd, at, n))
FD(ssize_t, sendfile64, to, (int to, int fd, off64_t *at, size_t n), (to, fd, at, n))
FD(ssize_t, copy_file_range, to,
   (int fd, off64_t *at, int to, off64_t *there, size_t n, unsigned flags),
   (fd, at, to, there, n, flags))
FD(int, fsync, fd, (int fd), (fd))
FD(int, fdatasync, fd, (int fd), (fd))
FD(int, ftruncate, fd, (int fd, off_t n), (fd, n))
FD(int, ftruncate64, fd, (int fd, off64_t n), (fd, n))

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "rename");
    return fails_at("rename", AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    static int (*real)(int, const char *, int, const char *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "renameat");
    return fails_at("renameat", b, to) ? -1 : real(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    static int (*real)(int, const char *, int, const char *, unsigned);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "renameat2");
    return fails_at("renameat2", b, to) ? -1 : real(a, from, b, to, flags);
}
