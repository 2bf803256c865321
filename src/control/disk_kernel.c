/* control/disk_kernel.c: see disk_kernel.h. */
#include "control/disk_kernel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control/ext4.h"

#define FILE_MAX MIB(512)

static const char *const kernel_paths[] = {"/vmlinuz", "/boot/vmlinuz"};
static const char *const initrd_paths[] = {"/initrd.img", "/boot/initrd.img"};

static int store(const uint8_t *data, uint64_t size, char name[32])
{
    int fd = memfd_create("from-disk", MFD_CLOEXEC);

    for (uint64_t done = 0; fd >= 0 && done < size;) {
        ssize_t n = write(fd, data + done, size - done);

        if (n < 0 && errno != EINTR) {
            close(fd);
            return -ENOMEM;
        }
        done += n > 0 ? (uint64_t)n : 0;
    }
    snprintf(name, 32, "/proc/self/fd/%d", fd);
    return fd;
}

/* The first of two paths that there is. A descriptor, or a negative errno. */
static int fetch(struct block *block, const char *const paths[2], char name[32])
{
    uint64_t size;
    uint8_t *data;
    int rc = ext4_read_file(block, paths[0], FILE_MAX, &data, &size);

    if (rc == -ENOENT)
        rc = ext4_read_file(block, paths[1], FILE_MAX, &data, &size);
    if (rc)
        return rc;
    rc = store(data, size, name);
    free(data);
    return rc;
}

int disk_kernel_find(struct disk_kernel *found, struct block *block, const char *path, struct error *err)
{
    *found = (struct disk_kernel){.fd = {-1, -1}};
    found->fd[0] = fetch(block, kernel_paths, found->kernel);
    if (found->fd[0] == -ENOENT || found->fd[0] == -EINVAL)
        return -ENOENT;
    if (found->fd[0] < 0)
        return error_set(err, found->fd[0], "disk '%s': its kernel cannot be read: %s", path, strerror(-found->fd[0]));
    found->fd[1] = fetch(block, initrd_paths, found->initrd);
    if (found->fd[1] < 0 && found->fd[1] != -ENOENT)
        return error_set(err, found->fd[1], "disk '%s': its initrd cannot be read: %s", path, strerror(-found->fd[1]));
    return 0;
}

void disk_kernel_close(struct disk_kernel *found)
{
    for (unsigned i = 0; i < 2; i++)
        if (found->fd[i] >= 0)
            close(found->fd[i]);
}
