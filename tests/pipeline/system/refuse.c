/* A file system that lacks something: to be loaded before libc (LD_PRELOAD).

   The call named by REFUSED fails with the error number REFUSED_ERRNO, for what lies below REFUSED_BELOW:
   flock          no locks (Lustre without -o flock)
   fsync          nothing can be put on the disk
   fsync_folder   the same of folders alone (CIFS before Linux 4.17, VirtualBox, some FUSE)
   close_written  what was written did not fit after all (NFS and quotas tell it at the end)
   rename         a file that somebody has open stays
   map_program    no programs may run from there (a mount with noexec)
   fchmod         one mode for all files (vfat, CIFS)
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int refused(const char *call, const char *path) {
    const char *name = getenv("REFUSED"), *below = getenv("REFUSED_BELOW"), *number = getenv("REFUSED_ERRNO");
    if (!name || !below || !number || strcmp(name, call) || strncmp(path, below, strlen(below))) return 0;
    errno = atoi(number);
    return 1;
}

static int refused_open(const char *call, int file) {
    char link[64], path[PATH_MAX];
    if (!getenv("REFUSED") || strcmp(getenv("REFUSED"), call)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return refused(call, path);
}

int flock(int file, int operation) {
    REAL(int, "flock", int, int);
    return refused_open("flock", file) ? -1 : real(file, operation);
}

int fsync(int file) {
    REAL(int, "fsync", int);
    struct stat found;
    int folder = fstat(file, &found) == 0 && S_ISDIR(found.st_mode);
    return refused_open("fsync", file) || (folder && refused_open("fsync_folder", file)) ? -1 : real(file);
}

int fchmod(int file, mode_t mode) {
    REAL(int, "fchmod", int, mode_t);
    return refused_open("fchmod", file) ? -1 : real(file, mode);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return access(to, F_OK) == 0 && refused("rename", to) ? -1 : real(from, to);
}

int close(int file) {
    REAL(int, "close", int);
    int flags = fcntl(file, F_GETFL), kept = errno;
    int lost = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && refused_open("close_written", file);
    int result = real(file);
    errno = lost ? atoi(getenv("REFUSED_ERRNO")) : result ? errno : kept;
    return lost ? -1 : result;
}

void *mmap(void *start, size_t length, int protection, int flags, int file, off_t offset) {
    REAL(void *, "mmap", void *, size_t, int, int, int, off_t);
    if (file >= 0 && (protection & PROT_EXEC) && refused_open("map_program", file)) return MAP_FAILED;
    return real(start, length, protection, flags, file, offset);
}

void *mmap64(void *start, size_t length, int protection, int flags, int file, off_t offset) {
    return mmap(start, length, protection, flags, file, offset);
}
