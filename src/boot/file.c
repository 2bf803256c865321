/*
 * boot/file.c: kernel and initrd files. Sizes come from fstat; a file that
 * changes under us is an error, never a crash (hence read, not mmap).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/boot_internal.h"

#define FILE_MAX  GIB(64) /* more than this is a mistake */
#define COPY_STEP KIB(256)

int boot_blob_open(struct boot_blob *blob, const char *what, const char *path, struct error *err)
{
    struct stat st;

    *blob = (struct boot_blob){.path = path, .fd = -1};
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    blob->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (blob->fd < 0)
        return error_set(err, -errno, "%s '%s': %s", what, path, strerror(errno));
    if (fstat(blob->fd, &st) < 0) {
        int code = -errno;

        boot_blob_close(blob);
        return error_set(err, code, "%s '%s': %s", what, path, strerror(-code));
    }
    if (!S_ISREG(st.st_mode)) {
        boot_blob_close(blob);
        return error_set(err, -EINVAL, "%s '%s': %s, not a regular file", what, path,
                         S_ISDIR(st.st_mode) ? "a directory" : "a pipe or device");
    }
    if (st.st_size <= 0 || (uint64_t)st.st_size > FILE_MAX) {
        boot_blob_close(blob);
        return error_set(err, -EINVAL, "%s '%s': %s", what, path,
                         st.st_size <= 0 ? "the file is empty" : "larger than any kernel or initrd can be");
    }
    blob->size = (uint64_t)st.st_size;
    return 0;
}

void boot_blob_close(struct boot_blob *blob)
{
    if (blob->fd < 0)
        return;
    close(blob->fd);
    blob->fd = -1;
    free(blob->data);
    blob->data = NULL;
}

static int read_at(const struct boot_blob *blob, const char *what, uint8_t *out, uint64_t offset, uint64_t len,
                   struct error *err)
{
    while (len > 0) {
        ssize_t n = pread(blob->fd, out, MIN(len, GIB(1)), (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(err, -errno, "%s '%s': %s", what, blob->path, strerror(errno));
        if (n == 0)
            return error_set(err, -EIO, "%s '%s': the file became shorter while it was read", what, blob->path);
        out += n;
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

int boot_blob_read(struct boot_blob *blob, const char *what, struct error *err)
{
    blob->data = malloc(blob->size);
    if (!blob->data)
        return error_set(err, -ENOMEM, "%s '%s': no memory for its %llu bytes", what, blob->path,
                         (unsigned long long)blob->size);
    return read_at(blob, what, blob->data, 0, blob->size, err);
}

int boot_blob_copy(const struct boot_blob *blob, struct mem *mem, gpa_t gpa, struct error *err)
{
    uint8_t *buf;
    int rc = 0;

    if (blob->data) {
        if (mem_write(mem, gpa, blob->data, blob->size) < 0)
            return error_set(err, -EFAULT, "'%s': no guest memory at %#llx", blob->path, (unsigned long long)gpa);
        return 0;
    }
    buf = malloc(COPY_STEP);
    if (!buf)
        return error_set(err, -ENOMEM, "'%s': out of memory", blob->path);
    for (uint64_t done = 0; done < blob->size && rc == 0;) {
        uint64_t step = MIN(blob->size - done, COPY_STEP);

        rc = read_at(blob, "initrd", buf, done, step, err);
        if (rc == 0 && mem_write(mem, gpa + done, buf, step) < 0)
            rc =
                error_set(err, -EFAULT, "'%s': no guest memory at %#llx", blob->path, (unsigned long long)(gpa + done));
        done += step;
    }
    free(buf);
    return rc;
}
