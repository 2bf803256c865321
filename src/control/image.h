/* control/image.h: `trapeze image`: makes disk images. */
#ifndef CONTROL_IMAGE_H
#define CONTROL_IMAGE_H

#include "base/error.h"
#include "base/types.h"

/* An empty copy-on-write child of a disk. 0, or a negative errno with a line for the user. */
int image_overlay(const char *base, const char *path, struct error *err);

struct image_debian {
    const char *path;
    uint64_t size;              /* bytes */
    const char *include;        /* packages, separated by commas; NULL: none besides */
    const char *suite, *mirror; /* NULL: mmdebstrap's own */
};

/* A bootable Debian root file system in a new file, by mmdebstrap and mke2fs; their progress goes to standard error.
 * 0, or a negative errno with a line for the user. */
int image_debian(const struct image_debian *debian, struct error *err);

#endif
