/*
 * backend/fs/fs.h: a directory of the host as a file server for a guest: FUSE
 * requests in, answers out, over the guest's own memory.
 *
 * The guest is hostile. It names a file by a node ID it was given, or by one
 * name in a directory it was given; whatever it asks for, nothing outside the
 * directory is reached: names are single components, symbolic links are never
 * followed here, and only regular files and directories are ever opened.
 */
#ifndef BACKEND_FS_FS_H
#define BACKEND_FS_FS_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/types.h"

#define FS_IOV_MAX 256 /* buffers on each side of a request */

struct fs;

struct fs_config {
    const char *path;
    bool readonly;
    /* The guest keeps writes to itself for a while, and trusts its own idea of a file's size: fast, for directories
     * that nobody else writes to meanwhile. */
    bool writeback;
    /* Nobody changes it while the guest runs (or the guest may miss that): it asks once and remembers; there are no
     * extended attributes. Only with readonly. */
    bool constant;
};

struct fs_request {
    const struct iovec *in, *out; /* what the guest has sent; where the answer goes. Each may change at any moment. */
    unsigned in_count, out_count;
    uint64_t in_bytes, out_bytes;
    uint64_t written;                         /* bytes of the answer; 0: there is none */
    void (*done)(struct fs_request *request); /* on a thread of the server's, with no lock held */
    struct fs_request *next;
};

/* NULL with one line for the user, which begins with `option`. */
struct fs *fs_open(const struct fs_config *config, const char *option, struct error *err);
/* Waits for what is under way. */
void fs_close(struct fs *fs);

/* Begins a request; any thread. True: it is done already, and done() is not called. That is so for what the host does
 * at once, from its caches: the guest waits for the answer anyway, and two changes of thread cost more than the work.
 */
bool fs_submit(struct fs *fs, struct fs_request *request);
/* Waits until nothing is under way. The caller submits nothing meanwhile. */
void fs_drain(struct fs *fs);
/* Forgets the guest: its nodes and open files. Nothing is under way. */
void fs_reset(struct fs *fs);

bool fs_readonly(const struct fs *fs);

#endif
