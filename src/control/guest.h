/*
 * control/guest.h: the default guest: Debian's cloud kernel and our initramfs,
 * made by `make guest`.
 */
#ifndef CONTROL_GUEST_H
#define CONTROL_GUEST_H

#include <limits.h>
#include <stddef.h>

#include "base/error.h"

/* The default guest's kernel command line; --append comes after it. */
#define GUEST_CMDLINE "console=ttyS0 nokaslr tsc=reliable panic=-1 cryptomgr.notests"

/* By what tag it mounts the host's root file system, if trapeze.root names it. */
#define GUEST_ROOT_TAG "host-root"

struct guest {
    char kernel[PATH_MAX], initrd[PATH_MAX];
};

/* Looks in the build tree (beside the executable), the install prefix and $XDG_DATA_HOME/trapeze, in this order.
 * -ENOENT with a line that says how to make it. */
int guest_find(struct guest *guest, struct error *err);

/* What a bzImage says its version is ("6.1.0-56-cloud-amd64"); "" if it is none. */
void guest_kernel_version(const char *path, char *version, size_t size);

#endif
