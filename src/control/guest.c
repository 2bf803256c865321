/* control/guest.c: where the default guest can lie. */
#include "control/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/types.h"

/* 0 if dir holds a kernel and an initrd that can be read. */
static int look_in(const char *dir, struct guest *guest)
{
    int n = snprintf(guest->kernel, sizeof(guest->kernel), "%s/vmlinuz", dir);
    int m = snprintf(guest->initrd, sizeof(guest->initrd), "%s/initrd.img", dir);

    if (n >= (int)sizeof(guest->kernel) || m >= (int)sizeof(guest->initrd))
        return -ENOENT;
    return access(guest->kernel, R_OK) || access(guest->initrd, R_OK) ? -ENOENT : 0;
}

static int look_beside(const char *executable, const char *below, struct guest *guest)
{
    char path[PATH_MAX], dir[PATH_MAX + 64];

    snprintf(path, sizeof(path), "%s", executable);
    snprintf(dir, sizeof(dir), "%s/%s", dirname(path), below);
    return look_in(dir, guest);
}

static int look_in_home(struct guest *guest)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char dir[PATH_MAX];

    if (data && *data)
        snprintf(dir, sizeof(dir), "%s/trapeze", data);
    else if (home && *home)
        snprintf(dir, sizeof(dir), "%s/.local/share/trapeze", home);
    else
        return -ENOENT;
    return look_in(dir, guest);
}

int guest_find(struct guest *guest, struct error *err)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    self[MAX(n, 0)] = '\0';
    if (!look_beside(self, "guest", guest) || !look_beside(self, "../share/trapeze", guest) || !look_in_home(guest))
        return 0;
    return error_set(
        err, -ENOENT,
        "there is no default guest yet: `make guest` in the source tree makes it; or name a kernel: --kernel FILE");
}

/* Linux, Documentation/arch/x86/boot.rst: kernel_version is the text's offset, less 0x200. */
void guest_kernel_version(const char *path, char *version, size_t size)
{
    char text[128] = "";
    uint8_t header[4] = {0};
    uint16_t offset = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && pread(fd, header, 4, 0x202) == 4 && pread(fd, &offset, 2, 0x20e) == 2 &&
        !memcmp(header, "HdrS", 4) && offset && pread(fd, text, sizeof(text) - 1, offset + 0x200) < 1)
        text[0] = '\0';
    if (fd >= 0)
        close(fd);
    snprintf(version, size, "%.*s", (int)strcspn(text, " "), text);
}
