/* control/disk_kernel.h: the kernel and initrd that a disk brings along. */
#ifndef CONTROL_DISK_KERNEL_H
#define CONTROL_DISK_KERNEL_H

#include "backend/block/block.h"
#include "base/error.h"

/* What a guest from a disk needs on its command line; the user's --append comes after it. */
#define DISK_CMDLINE "console=ttyS0 root=/dev/vda rw tsc=reliable panic=-1 cryptomgr.notests"

struct disk_kernel {
    int fd[2];                   /* memory files, or -1 */
    char kernel[32], initrd[32]; /* their names; initrd "" if there is none */
};

/* Copies /vmlinuz and /initrd.img of an ext4 file system that fills the disk, as Debian puts them. -ENOENT: there is no
 * kernel (a plain disk, no message); else a negative errno with a line for the user. */
int disk_kernel_find(struct disk_kernel *found, struct block *block, const char *path, struct error *err);
void disk_kernel_close(struct disk_kernel *found);

#endif
