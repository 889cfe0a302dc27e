// A layer below every library of a process (LD_PRELOAD): it counts what the process does to the files under one
// directory, and lets the n-th of these operations go wrong. Python, safetensors (Rust) and torch (C++) all pass here.
// Inert until faults_arm is called; a program that is started (exec) begins inert again. See trials.py.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode {
    COUNT,          // nothing goes wrong
    KILL,           // killed before the n-th operation
    TEAR,           // killed in the middle of the n-th, if it writes; else just after it
    FULL,           // from the n-th on, no space is left; a write that meets the end is cut short
    FULL_ONCE,      // only the n-th finds no space
    BROKEN,         // the n-th gives an input/output error
    READ_ONLY,      // from the n-th on, nothing can be changed any more
    INTERRUPT,      // Ctrl-C just before the n-th
    INTERRUPT_TWICE // and again just before the next
};

enum kind { OPEN, WRITE, RESIZE, SYNC, RENAME, REMOVE, MAKE };
static const char *const NAMES[] = {"open", "write", "resize", "sync", "rename", "remove", "make"};

enum verdict { PASS, FAIL, HALF, HALF_THEN_DIE, DIE_AFTER };

#define FILES 4096

static int armed;
static enum mode mode;
static long at;
static int record = -1;
static char root[4096];
static atomic_long *count;           // shared with the process that watches
static char *paths[FILES];           // of descriptors under the root
static atomic_int is_full;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

// counter: shared memory; journal: a descriptor that gets "number kind path" of each operation, or -1.
void faults_arm(const char *directory, int how, long n, atomic_long *counter, int journal) {
    snprintf(root, sizeof root, "%s", directory);
    mode = how, at = n, count = counter, record = journal, armed = 1;
}

static int below(int folder, const char *path) {
    if (!armed || !path) return 0;
    if (path[0] != '/') return folder == AT_FDCWD || (folder >= 0 && folder < FILES && paths[folder]);
    size_t length = strlen(root);
    return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int known(int file) { return armed && file >= 0 && file < FILES && paths[file]; }

static void note(int file, const char *path) {
    if (file < 0 || file >= FILES) return;
    free(paths[file]);
    paths[file] = strdup(path);
}

static void forget(int file) {
    if (file >= 0 && file < FILES && paths[file]) {
        free(paths[file]);
        paths[file] = NULL;
    }
}

__attribute__((noreturn)) static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static enum verdict pass(enum kind kind, const char *path) {
    long n = atomic_fetch_add(count, 1) + 1;
    if (record >= 0) {
        char line[8192];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", n, NAMES[kind], path);
        if (REAL(write)(record, line, length) != length) abort();
    }
    int takes_space = kind == OPEN || kind == WRITE || kind == RESIZE || kind == MAKE;
    int changes = kind != WRITE && kind != SYNC;
    if (mode == KILL && n == at) die();
    if (mode == TEAR && n == at) return kind == WRITE ? HALF_THEN_DIE : DIE_AFTER;
    if (mode == FULL && n >= at && takes_space) {
        errno = ENOSPC;
        return kind == WRITE && !atomic_exchange(&is_full, 1) ? HALF : FAIL;
    }
    if (mode == FULL_ONCE && n == at && takes_space) return errno = ENOSPC, FAIL;
    if (mode == BROKEN && n == at) return errno = EIO, FAIL;
    if (mode == READ_ONLY && n >= at && changes) return errno = EROFS, FAIL;
    if ((mode == INTERRUPT || mode == INTERRUPT_TWICE) && n == at) kill(getpid(), SIGINT);
    if (mode == INTERRUPT_TWICE && n == at + 1) kill(getpid(), SIGINT);
    return PASS;
}

#define AFTER(verdict) \
    if ((verdict) == DIE_AFTER) die()

static int opening(int folder, const char *path, int flags, mode_t rights, int (*real)(int, const char *, int, ...)) {
    if (!below(folder, path)) return real(folder, path, flags, rights);
    enum verdict verdict = PASS;
    if (flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)) verdict = pass(OPEN, path);
    if (verdict == FAIL) return -1;
    int file = real(folder, path, flags, rights);
    note(file, path);
    AFTER(verdict);
    return file;
}

#define RIGHTS                                            \
    mode_t rights = 0;                                    \
    if (flags & (O_CREAT | __O_TMPFILE)) {                \
        va_list more;                                     \
        va_start(more, flags), rights = va_arg(more, mode_t), va_end(more); \
    }

int open(const char *path, int flags, ...) {
    RIGHTS return opening(AT_FDCWD, path, flags, rights, REAL(openat));
}
int open64(const char *path, int flags, ...) {
    RIGHTS return opening(AT_FDCWD, path, flags, rights, REAL(openat64));
}
int openat(int folder, const char *path, int flags, ...) {
    RIGHTS return opening(folder, path, flags, rights, REAL(openat));
}
int openat64(int folder, const char *path, int flags, ...) {
    RIGHTS return opening(folder, path, flags, rights, REAL(openat64));
}

static FILE *opening_stream(const char *path, const char *how, FILE *(*real)(const char *, const char *)) {
    enum verdict verdict = PASS;
    int counts = below(AT_FDCWD, path);
    if (counts && strpbrk(how, "wa+")) verdict = pass(OPEN, path);
    if (verdict == FAIL) return NULL;
    FILE *stream = real(path, how);
    if (counts && stream) note(fileno(stream), path);
    AFTER(verdict);
    return stream;
}

FILE *fopen(const char *path, const char *how) { return opening_stream(path, how, REAL(fopen)); }
FILE *fopen64(const char *path, const char *how) { return opening_stream(path, how, REAL(fopen64)); }

int fclose(FILE *stream) {
    if (armed && stream) forget(fileno(stream));
    return REAL(fclose)(stream);
}

int close(int file) {
    if (armed) forget(file);
    return REAL(close)(file);
}

ssize_t write(int file, const void *bytes, size_t size) {
    __typeof__(&write) real = REAL(write);
    if (!known(file)) return real(file, bytes, size);
    switch (pass(WRITE, paths[file])) {
    case FAIL: return -1;
    case HALF: return size < 2 ? -1 : real(file, bytes, size / 2);
    case HALF_THEN_DIE: real(file, bytes, size / 2), die();
    default: return real(file, bytes, size);
    }
}

static ssize_t writing_at(int file, const void *bytes, size_t size, off_t where) {
    __typeof__(&pwrite) real = REAL(pwrite);
    if (!known(file)) return real(file, bytes, size, where);
    switch (pass(WRITE, paths[file])) {
    case FAIL: return -1;
    case HALF: return size < 2 ? -1 : real(file, bytes, size / 2, where);
    case HALF_THEN_DIE: real(file, bytes, size / 2, where), die();
    default: return real(file, bytes, size, where);
    }
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t where) { return writing_at(file, bytes, size, where); }
ssize_t pwrite64(int file, const void *bytes, size_t size, off_t where) { return writing_at(file, bytes, size, where); }

ssize_t writev(int file, const struct iovec *parts, int number) {
    __typeof__(&writev) real = REAL(writev);
    if (!known(file)) return real(file, parts, number);
    switch (pass(WRITE, paths[file])) {
    case FAIL: return -1;
    case HALF: return number < 2 ? -1 : real(file, parts, number / 2);
    case HALF_THEN_DIE: real(file, parts, number / 2), die();
    default: return real(file, parts, number);
    }
}

// For calls that are done or not: what they are, their path, whether it counts, and the real call.
#define WHOLE(kind, path, counts, call)                        \
    do {                                                       \
        enum verdict verdict = (counts) ? pass(kind, path) : PASS; \
        if (verdict == FAIL) return -1;                        \
        int result = call;                                     \
        AFTER(verdict);                                        \
        return result;                                         \
    } while (0)

int ftruncate(int file, off_t size) { WHOLE(RESIZE, paths[file], known(file), REAL(ftruncate)(file, size)); }
int ftruncate64(int file, off_t size) { WHOLE(RESIZE, paths[file], known(file), REAL(ftruncate)(file, size)); }
int fsync(int file) { WHOLE(SYNC, paths[file], known(file), REAL(fsync)(file)); }
int fdatasync(int file) { WHOLE(SYNC, paths[file], known(file), REAL(fdatasync)(file)); }

int rename(const char *from, const char *to) {
    WHOLE(RENAME, to, below(AT_FDCWD, to), REAL(rename)(from, to));
}
int renameat(int folder, const char *from, int other, const char *to) {
    WHOLE(RENAME, to, below(other, to), REAL(renameat)(folder, from, other, to));
}
int unlink(const char *path) { WHOLE(REMOVE, path, below(AT_FDCWD, path), REAL(unlink)(path)); }
int unlinkat(int folder, const char *path, int flags) {
    WHOLE(REMOVE, path, below(folder, path), REAL(unlinkat)(folder, path, flags));
}
int rmdir(const char *path) { WHOLE(REMOVE, path, below(AT_FDCWD, path), REAL(rmdir)(path)); }
int mkdir(const char *path, mode_t rights) { WHOLE(MAKE, path, below(AT_FDCWD, path), REAL(mkdir)(path, rights)); }
int mkdirat(int folder, const char *path, mode_t rights) {
    WHOLE(MAKE, path, below(folder, path), REAL(mkdirat)(folder, path, rights));
}
