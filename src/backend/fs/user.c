/*
 * backend/fs/user.c: in whose name the server acts. As an ordinary user it has
 * that user's rights and nothing is switched. As root it makes files in the
 * name of the guest's user, by the file system IDs of the thread alone.
 */
#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

#define CAPS(name) (1u << ((name)&31))

/* The calling thread's. */
static int get_caps(struct __user_cap_data_struct caps[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    return (int)syscall(SYS_capget, &header, caps);
}

static void set_caps(const struct __user_cap_data_struct caps[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    syscall(SYS_capset, &header, caps);
}

static _Thread_local bool prepared, masked;

/* The umask belongs to what threads share by CLONE_FS; a sandbox may not let them part. */
void fs_prepare_thread(void)
{
    if (prepared)
        return;
    prepared = true;
    masked = unshare(CLONE_FS);
    if (!masked)
        umask(0);
}

bool fs_is_masked(void)
{
    return masked;
}

bool fs_can_switch(void)
{
    const uint32_t wanted = CAPS(CAP_SETUID) | CAPS(CAP_SETGID) | CAPS(CAP_CHOWN);
    struct __user_cap_data_struct caps[2];

    return geteuid() == 0 && !get_caps(caps) && (caps[0].effective & wanted) == wanted;
}

static bool other(const struct fs *fs, const struct fuse_in_header *who)
{
    return fs->switches && (who->uid || who->gid);
}

int fs_become(const struct fs *fs, const struct fuse_in_header *who)
{
    struct __user_cap_data_struct caps[2];

    if (!other(fs, who))
        return 0;
    if (who->uid == UINT32_MAX || who->gid == UINT32_MAX || get_caps(caps))
        return -EINVAL;
    setfsgid(who->gid);
    setfsuid(who->uid);
    set_caps(caps); /* setfsuid has taken those of root's that concern files */
    return 0;
}

void fs_return(const struct fs *fs, const struct fuse_in_header *who)
{
    if (!other(fs, who))
        return;
    setfsuid(0);
    setfsgid(0);
}

void fs_give_up_setid(const struct fs *fs, bool give_up)
{
    struct __user_cap_data_struct caps[2];

    if (!give_up || !fs->switches || get_caps(caps))
        return;
    caps[0].effective &= ~CAPS(CAP_FSETID);
    set_caps(caps);
}

void fs_regain_setid(const struct fs *fs, bool gave_up)
{
    struct __user_cap_data_struct caps[2];

    if (!gave_up || !fs->switches || get_caps(caps))
        return;
    caps[0].effective |= caps[0].permitted & CAPS(CAP_FSETID);
    set_caps(caps);
}
