/* Everything that a process does to the files of a directory, written down: loaded in front of the C library (LD_PRELOAD) by
 * tests/powercut/record.py, which also reads what this writes.
 *
 * POWERCUT_DIRECTORY names the directory (all beneath it counts), POWERCUT_RECORD the file that records are appended to. A record is
 * `struct head`, the path and the bytes that were written. An operation and its record are one step under a lock, so records stand
 * in the order of the operations. What changes a file in a way that is not followed (`U`) is a record, too: the reader refuses it.
 * `powercut_mark` lets the process add a record of its own. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FILES 4096

struct __attribute__((packed)) head {
    uint8_t kind;
    int32_t process, file;
    int64_t offset, time_ms;
    uint32_t path_bytes, data_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *opened[FILES];
static char directory[PATH_MAX];
static size_t directory_bytes;
static int record = -1;
static volatile int64_t syncs;

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (next == NULL) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("POWERCUT_DIRECTORY"), *to = getenv("POWERCUT_RECORD");
    if (where == NULL || to == NULL || realpath(where, directory) == NULL) return;
    directory_bytes = strlen(directory);
    record = (int)syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static void note(char kind, int file, int64_t offset, const char *path, const struct iovec *data, int parts, size_t bytes) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    struct head head = {(uint8_t)kind, (int32_t)getpid(), file, offset, now.tv_sec * 1000 + now.tv_nsec / 1000000,
                        path == NULL ? 0 : (uint32_t)strlen(path), (uint32_t)bytes};
    size_t whole = sizeof head + head.path_bytes + bytes, at = sizeof head;
    char *text = malloc(whole);
    if (text == NULL) abort();
    memcpy(text, &head, sizeof head);
    if (path != NULL) memcpy(text + at, path, head.path_bytes);
    at += head.path_bytes;
    for (int part = 0; part < parts && bytes > 0; part++) {
        size_t size = data[part].iov_len < bytes ? data[part].iov_len : bytes;
        memcpy(text + at, data[part].iov_base, size);
        at += size;
        bytes -= size;
    }
    for (size_t done = 0; done < whole;) {
        long written = syscall(SYS_write, record, text + done, whole - done);
        if (written < 0 && errno != EINTR) abort(); /* a record with a hole proves nothing */
        if (written > 0) done += (size_t)written;
    }
    free(text);
}

/* The path below the directory, "" for itself, NULL for one that is elsewhere. */
static const char *inside(int at, const char *path, char *whole) {
    if (record < 0 || path == NULL) return NULL;
    if (path[0] == '/') {
        snprintf(whole, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX], link[64];
        snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
        ssize_t size = readlink(link, base, sizeof base - 1);
        if (size < 0) return NULL;
        base[size] = 0;
        if ((size_t)snprintf(whole, PATH_MAX, "%.2000s/%.2000s", base, path) >= PATH_MAX) return NULL;
    }
    for (size_t end = strlen(whole); end > 1 && whole[end - 1] == '/';) whole[--end] = 0;
    if (strncmp(whole, directory, directory_bytes) != 0) return NULL;
    if (whole[directory_bytes] == 0) return whole + directory_bytes;
    return whole[directory_bytes] == '/' ? whole + directory_bytes + 1 : NULL;
}

static int is_followed(int file) {
    return record >= 0 && file >= 0 && file < FILES && opened[file] != NULL;
}

void powercut_mark(const char *text, size_t bytes) {
    if (record < 0) return;
    struct iovec data = {(void *)text, bytes};
    pthread_mutex_lock(&lock);
    note('M', -1, 0, NULL, &data, 1, bytes);
    pthread_mutex_unlock(&lock);
}

/* How often a file whose name ends in `-wal` has been forced to disk. */
int64_t powercut_log_syncs(void) { return syncs; }

/* ---- opening and closing */

static int open_noted(int at, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    const char *name = inside(at, path, whole);
    if (name == NULL) return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) != 0 && syscall(SYS_faccessat, at, path, F_OK) != 0;
    int file = (int)syscall(SYS_openat, at, path, flags, mode);
    int saved = errno;
    if (file >= 0 && file < FILES) {
        free(opened[file]);
        opened[file] = strdup(name);
        note(is_new ? 'C' : 'O', file, flags, name, NULL, 0, 0);
        if (!is_new && (flags & O_TRUNC)) note('T', file, 0, name, NULL, 0, 0);
    } else if (file >= FILES) {
        note('U', file, 0, "a file with a high number", NULL, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return file;
}

static int open_listed(int at, const char *path, int flags, va_list more) {
    return open_noted(at, path, flags, (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        int file = open_listed(AT_FDCWD, path, flags, more); \
        va_end(more); \
        return file; \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        int file = open_listed(at, path, flags, more); \
        va_end(more); \
        return file; \
    }
OPENAT(openat)
OPENAT(openat64)
int creat(const char *path, mode_t mode) { return open_noted(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int file) {
    if (!is_followed(file)) return (int)syscall(SYS_close, file);
    pthread_mutex_lock(&lock);
    int failed = (int)syscall(SYS_close, file), saved = errno;
    note('X', file, 0, opened[file], NULL, 0, 0);
    free(opened[file]);
    opened[file] = NULL;
    pthread_mutex_unlock(&lock);
    errno = saved;
    return failed;
}

/* ---- what is in a file */

static ssize_t written(int file, int64_t offset, const struct iovec *data, int parts, ssize_t bytes) {
    int saved = errno;
    if (bytes > 0) note('W', file, offset, opened[file], data, parts, (size_t)bytes);
    errno = saved;
    return bytes;
}

static ssize_t write_noted(int file, const struct iovec *data, int parts) {
    if (!is_followed(file)) return syscall(SYS_writev, file, data, parts);
    pthread_mutex_lock(&lock);
    ssize_t bytes = syscall(SYS_writev, file, data, parts);
    int64_t end = bytes < 0 ? 0 : syscall(SYS_lseek, file, 0, SEEK_CUR);
    bytes = written(file, end - bytes, data, parts, bytes);
    pthread_mutex_unlock(&lock);
    return bytes;
}

ssize_t write(int file, const void *bytes, size_t size) {
    if (!is_followed(file)) return syscall(SYS_write, file, bytes, size);
    struct iovec data = {(void *)bytes, size};
    return write_noted(file, &data, 1);
}
ssize_t writev(int file, const struct iovec *data, int parts) { return write_noted(file, data, parts); }

static ssize_t pwrite_noted(int file, const void *bytes, size_t size, off_t offset) {
    if (!is_followed(file)) return syscall(SYS_pwrite64, file, bytes, size, offset);
    struct iovec data = {(void *)bytes, size};
    pthread_mutex_lock(&lock);
    ssize_t done = written(file, offset, &data, 1, syscall(SYS_pwrite64, file, bytes, size, offset));
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int file, const void *bytes, size_t size, off_t offset) { return pwrite_noted(file, bytes, size, offset); }
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset) { return pwrite_noted(file, bytes, size, offset); }

#define PWRITEV(name, offset_type) \
    ssize_t name(int file, const struct iovec *data, int parts, offset_type offset) { \
        NEXT(name); \
        if (!is_followed(file)) return next(file, data, parts, offset); \
        pthread_mutex_lock(&lock); \
        ssize_t done = written(file, offset, data, parts, next(file, data, parts, offset)); \
        pthread_mutex_unlock(&lock); \
        return done; \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

static int cut_noted(int file, off_t size) {
    if (!is_followed(file)) return (int)syscall(SYS_ftruncate, file, size);
    pthread_mutex_lock(&lock);
    int failed = (int)syscall(SYS_ftruncate, file, size), saved = errno;
    if (!failed) note('T', file, size, opened[file], NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return failed;
}
int ftruncate(int file, off_t size) { return cut_noted(file, size); }
int ftruncate64(int file, off64_t size) { return cut_noted(file, size); }

/* ---- what is forced to disk */

#define SYNC(name) \
    int name(int file) { \
        NEXT(name); \
        if (!is_followed(file)) return next(file); \
        pthread_mutex_lock(&lock); \
        int failed = next(file), saved = errno; \
        if (!failed) { \
            const char *end = strrchr(opened[file], '-'); \
            note('S', file, 0, opened[file], NULL, 0, 0); \
            if (end != NULL && strcmp(end, "-wal") == 0) syncs++; \
        } \
        pthread_mutex_unlock(&lock); \
        errno = saved; \
        return failed; \
    }
SYNC(fsync)
SYNC(fdatasync)

/* ---- names */

static int named(char kind, int failed, const char *path, const char *to) {
    int saved = errno;
    struct iovec data = {(void *)to, to == NULL ? 0 : strlen(to)};
    if (!failed) note(kind, -1, 0, path, &data, 1, data.iov_len);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return failed;
}

static int unlink_noted(int at, const char *path, int flags) {
    char whole[PATH_MAX];
    const char *name = inside(at, path, whole);
    if (name == NULL) return (int)syscall(SYS_unlinkat, at, path, flags);
    pthread_mutex_lock(&lock);
    return named('D', (int)syscall(SYS_unlinkat, at, path, flags), name, NULL);
}
int unlink(const char *path) { return unlink_noted(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return unlink_noted(at, path, flags); }
int rmdir(const char *path) { return unlink_noted(AT_FDCWD, path, AT_REMOVEDIR); }

static int mkdir_noted(int at, const char *path, mode_t mode) {
    char whole[PATH_MAX];
    const char *name = inside(at, path, whole);
    if (name == NULL) return (int)syscall(SYS_mkdirat, at, path, mode);
    pthread_mutex_lock(&lock);
    return named('K', (int)syscall(SYS_mkdirat, at, path, mode), name, NULL);
}
int mkdir(const char *path, mode_t mode) { return mkdir_noted(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return mkdir_noted(at, path, mode); }

static int rename_noted(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char whole[PATH_MAX], other[PATH_MAX];
    const char *name = inside(from_at, from, whole), *target = inside(to_at, to, other);
    if (name == NULL && target == NULL) return (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    char kind = name == NULL || target == NULL || flags != 0 ? 'U' : 'R';
    return named(kind, (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags), name == NULL ? from : name, target);
}
int rename(const char *from, const char *to) { return rename_noted(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return rename_noted(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return rename_noted(a, from, b, to, flags); }

/* ---- what is not followed, and so refused where it comes up */

static void refuse(const char *what, int file) {
    int saved = errno;
    if (is_followed(file)) {
        pthread_mutex_lock(&lock);
        note('U', file, 0, what, NULL, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
}

#define REFUSED(name, file, result, parameters, arguments) \
    result name parameters { \
        NEXT(name); \
        refuse(#name, file); \
        return next arguments; \
    }
REFUSED(dup, file, int, (int file), (file))
REFUSED(dup2, file, int, (int file, int other), (file, other))
REFUSED(dup3, file, int, (int file, int other, int flags), (file, other, flags))
REFUSED(fallocate, file, int, (int file, int mode, off_t offset, off_t size), (file, mode, offset, size))
REFUSED(fallocate64, file, int, (int file, int mode, off64_t offset, off64_t size), (file, mode, offset, size))
REFUSED(posix_fallocate, file, int, (int file, off_t offset, off_t size), (file, offset, size))
REFUSED(posix_fallocate64, file, int, (int file, off64_t offset, off64_t size), (file, offset, size))
REFUSED(pwritev2, file, ssize_t, (int file, const struct iovec *data, int parts, off_t offset, int flags),
        (file, data, parts, offset, flags))
REFUSED(copy_file_range, to, ssize_t, (int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags),
        (from, a, to, b, size, flags))

/* Neither forces anything to disk that this proof may count on: they are left out of the record, which makes the disk worse. */
/* sync_file_range, syncfs, sync */

static void *map_noted(void *where, size_t size, int rights, int flags, int file, off_t offset) {
    if ((flags & MAP_SHARED) && (rights & PROT_WRITE)) refuse("mmap", file);
    return (void *)syscall(SYS_mmap, where, size, rights, flags, file, offset);
}
void *mmap(void *where, size_t size, int rights, int flags, int file, off_t offset) {
    return map_noted(where, size, rights, flags, file, offset);
}
void *mmap64(void *where, size_t size, int rights, int flags, int file, off64_t offset) {
    return map_noted(where, size, rights, flags, file, offset);
}

#define REFUSED_PATH(name, parameters, path, arguments) \
    int name parameters { \
        NEXT(name); \
        char whole[PATH_MAX]; \
        if (inside(AT_FDCWD, path, whole) != NULL) { \
            pthread_mutex_lock(&lock); \
            note('U', -1, 0, #name, NULL, 0, 0); \
            pthread_mutex_unlock(&lock); \
        } \
        return next arguments; \
    }
REFUSED_PATH(truncate, (const char *path, off_t size), path, (path, size))
REFUSED_PATH(truncate64, (const char *path, off64_t size), path, (path, size))
REFUSED_PATH(link, (const char *from, const char *to), to, (from, to))
REFUSED_PATH(linkat, (int a, const char *from, int b, const char *to, int flags), to, (a, from, b, to, flags))
REFUSED_PATH(symlink, (const char *from, const char *to), to, (from, to))
