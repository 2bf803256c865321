/*
 * control/guest.h: the default guest: Debian's cloud kernel and our initramfs,
 * made by `make guest`.
 */
#ifndef CONTROL_GUEST_H
#define CONTROL_GUEST_H

#include <limits.h>

#include "base/error.h"

/* The default guest's kernel command line; --append comes after it. */
#define GUEST_CMDLINE "console=ttyS0 nokaslr tsc=reliable panic=-1 cryptomgr.notests"

struct guest {
    char kernel[PATH_MAX], initrd[PATH_MAX];
};

/* Looks in the build tree (beside the executable), the install prefix and $XDG_DATA_HOME/trapeze, in this order.
 * -ENOENT with a line that says how to make it. */
int guest_find(struct guest *guest, struct error *err);

#endif
