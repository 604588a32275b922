/* System calls that fail when they are told to. Loaded with LD_PRELOAD by tests/faults/rounds.py.
 *
 * Counted are calls that touch files under a given folder: fault_arm(folder, kinds, nth, mode, error) has the nth of
 * them (and in some modes all after it) misbehave; fault_count() says how many there were. Calls on other files, and
 * all calls before arming, pass through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITES = 1, READS = 2, CLONES = 4 };             /* kinds */
enum { ONCE = 0, STICKY = 1, SHORT = 2, BACKWARDS = 3 }; /* modes */

static char folder[PATH_MAX];
static size_t folder_length;
static int kinds, mode, error_number;
static long nth = -1, count;
static __thread int inside;

void fault_arm(const char *where, int which, long number, int how, int error)
{
    strncpy(folder, where, sizeof folder - 1);
    folder_length = strlen(folder);
    kinds = which;
    nth = number;
    mode = how;
    error_number = error;
    count = 0;
}

long fault_count(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

#define REAL(result, name, ...)                                             \
    static result (*real)(__VA_ARGS__);                                     \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int is_ours(const char *path)
{
    return path && folder_length && strncmp(path, folder, folder_length) == 0;
}

static int is_our_fd(int fd)
{
    char link[64], path[PATH_MAX];
    if (!folder_length || inside) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_ours(path);
}

/* Whether this call, one of ours, fails. */
static int fails(int kind)
{
    if (!(kinds & kind) || inside) return 0;
    long number = __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST);
    if (nth < 0 || (mode != ONCE && mode != STICKY)) return 0;
    if (number != nth && !(mode == STICKY && number > nth)) return 0;
    errno = error_number;
    return 1;
}

/* How many of `size` bytes a call may move. */
static size_t allowed(int kind, size_t size)
{
    return mode == SHORT && (kinds & kind) && size > 1 ? (size > 4096 ? 4096 : size / 2) : size;
}

static int open_mode(int flags) { return flags & (O_CREAT | O_TRUNC) ? WRITES : READS; }

#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...)                              \
    {                                                                       \
        va_list list;                                                       \
        va_start(list, flags);                                              \
        mode_t permissions = va_arg(list, mode_t);                          \
        va_end(list);                                                       \
        REAL(int, #name, const char *, int, ...);                           \
        if (is_ours(path) && fails(open_mode(flags))) return -1;            \
        return real(path, flags, permissions);                              \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                        \
    int name(int at, const char *path, int flags, ...)                      \
    {                                                                       \
        va_list list;                                                       \
        va_start(list, flags);                                              \
        mode_t permissions = va_arg(list, mode_t);                          \
        va_end(list);                                                       \
        REAL(int, #name, int, const char *, int, ...);                      \
        if (is_ours(path) && fails(open_mode(flags))) return -1;            \
        return real(at, path, flags, permissions);                          \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int fd, void *buffer, size_t size)
{
    REAL(ssize_t, "read", int, void *, size_t);
    if (is_our_fd(fd)) {
        if (fails(READS)) return -1;
        size = allowed(READS, size);
    }
    return real(fd, buffer, size);
}

#define PREAD(name)                                                         \
    ssize_t name(int fd, void *buffer, size_t size, off64_t start)          \
    {                                                                       \
        REAL(ssize_t, #name, int, void *, size_t, off64_t);                 \
        if (is_our_fd(fd)) {                                                \
            if (fails(READS)) return -1;                                    \
            size = allowed(READS, size);                                    \
        }                                                                   \
        return real(fd, buffer, size, start);                               \
    }
PREAD(pread)
PREAD(pread64)

/* Python reads into one buffer at a time. */
#define PREADV(name, ...)                                                   \
    {                                                                       \
        struct iovec one = parts[0];                                        \
        if (count_of_parts == 1 && is_our_fd(fd)) {                         \
            if (fails(READS)) return -1;                                    \
            one.iov_len = allowed(READS, one.iov_len);                      \
            parts = &one;                                                   \
        }                                                                   \
        return real(fd, parts, count_of_parts, start __VA_ARGS__);          \
    }
ssize_t preadv(int fd, const struct iovec *parts, int count_of_parts, off64_t start)
{ REAL(ssize_t, "preadv", int, const struct iovec *, int, off64_t); PREADV(preadv) }
ssize_t preadv64(int fd, const struct iovec *parts, int count_of_parts, off64_t start)
{ REAL(ssize_t, "preadv64", int, const struct iovec *, int, off64_t); PREADV(preadv64) }
ssize_t preadv2(int fd, const struct iovec *parts, int count_of_parts, off64_t start, int flags)
{ REAL(ssize_t, "preadv2", int, const struct iovec *, int, off64_t, int); PREADV(preadv2, , flags) }
ssize_t preadv64v2(int fd, const struct iovec *parts, int count_of_parts, off64_t start, int flags)
{ REAL(ssize_t, "preadv64v2", int, const struct iovec *, int, off64_t, int); PREADV(preadv64v2, , flags) }

ssize_t write(int fd, const void *buffer, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (is_our_fd(fd)) {
        if (fails(WRITES)) return -1;
        size = allowed(WRITES, size);
    }
    return real(fd, buffer, size);
}

#define PWRITE(name)                                                        \
    ssize_t name(int fd, const void *buffer, size_t size, off64_t start)    \
    {                                                                       \
        REAL(ssize_t, #name, int, const void *, size_t, off64_t);           \
        if (is_our_fd(fd)) {                                                \
            if (fails(WRITES)) return -1;                                   \
            size = allowed(WRITES, size);                                   \
        }                                                                   \
        return real(fd, buffer, size, start);                               \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t copy_file_range(int in, off64_t *in_start, int out, off64_t *out_start, size_t size, unsigned flags)
{
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    if (is_our_fd(out)) {
        if (fails(WRITES)) return -1;
        size = allowed(WRITES, size);
    }
    return real(in, in_start, out, out_start, size, flags);
}

/* Sharing blocks is a way of writing; some faults are about it alone. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    REAL(int, "ioctl", int, unsigned long, ...);
    if (request == FICLONERANGE && is_our_fd(fd) && fails(WRITES | CLONES)) return -1;
    return real(fd, request, argument);
}

int fsync(int fd)
{
    REAL(int, "fsync", int);
    return is_our_fd(fd) && fails(WRITES) ? -1 : real(fd);
}

#define TRUNCATE(name)                                                      \
    int name(int fd, off64_t size)                                          \
    {                                                                       \
        REAL(int, #name, int, off64_t);                                     \
        return is_our_fd(fd) && fails(WRITES) ? -1 : real(fd, size);        \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    return is_ours(to) && fails(WRITES) ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t permissions)
{
    REAL(int, "mkdir", const char *, mode_t);
    return is_ours(path) && fails(WRITES) ? -1 : real(path, permissions);
}

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    return is_ours(path) && fails(WRITES) ? -1 : real(path);
}

/* Both clocks run backwards, a second at every look. */
int clock_gettime(clockid_t clock, struct timespec *time)
{
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    static long looks;
    int result = real(clock, time);
    if (mode == BACKWARDS && result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC)) {
        long back = __atomic_add_fetch(&looks, 1, __ATOMIC_SEQ_CST);
        time->tv_sec = time->tv_sec > back ? time->tv_sec - back : 0;
    }
    return result;
}
