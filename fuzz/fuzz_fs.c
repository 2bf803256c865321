/*
 * fuzz/fuzz_fs.c: a hostile guest of the file server. The input is a list of
 * requests: an opcode, which of the nodes and files known so far it is about,
 * how its buffers are cut, its body, names. The sanitizers say what is wrong; a
 * hang is the fuzzer's timeout. What is beside the shared directory must stay
 * as it is.
 */
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/fs/fs.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define KNOWN     16
#define BODY_MAX  600
#define ROOM      4096
#define FILE_SIZE MIB(1)

static char top[] = "/dev/shm/trapeze-fuzz-XXXXXX", share[64];
static struct stat before;

struct input {
    const uint8_t *data;
    size_t size;
};

struct guest {
    struct fs *fs;
    uint64_t node[KNOWN], file[KNOWN];
    unsigned nodes, files;
};

static void clean_up(void)
{
    char command[80];

    snprintf(command, sizeof(command), "rm -rf %s", top);
    if (system(command))
        fprintf(stderr, "%s stays\n", top);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const struct rlimit small = {FILE_SIZE, FILE_SIZE};
    char path[80];

    if (access("/dev/shm", W_OK))
        memcpy(top, "/var/tmp", 8);
    if (!mkdtemp(top))
        abort();
    atexit(clean_up);
    snprintf(share, sizeof(share), "%s/share", top);
    snprintf(path, sizeof(path), "%s/share/../secret", top);
    if (mkdir(share, 0755) || creat(path, 0600) < 0 || stat(top, &before))
        abort();
    setrlimit(RLIMIT_FSIZE, &small);
    signal(SIGXFSZ, SIG_IGN);
    return 0;
}

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t value = 0;

    bytes = (unsigned)MIN(bytes, in->size);
    memcpy(&value, in->data, bytes);
    in->data += bytes;
    in->size -= bytes;
    return value;
}

/* --- a request ------------------------------------------------------------------------------------------ */

struct waiter {
    struct fs_request request;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool done;
};

static void on_done(struct fs_request *request)
{
    struct waiter *waiter = container_of(request, struct waiter, request);

    pthread_mutex_lock(&waiter->mutex);
    waiter->done = true;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->mutex);
}

/* Cuts bytes into two buffers, or leaves them whole. */
static unsigned cut(struct iovec iov[2], uint8_t *data, size_t len, size_t at)
{
    at = MIN(at, len);
    iov[0] = (struct iovec){data, at};
    iov[1] = (struct iovec){data + at, len - at};
    return 2;
}

static uint64_t send_request(struct guest *g, uint8_t *in, size_t in_len, uint8_t *out, size_t room, size_t at)
{
    struct iovec from[2], to[2];
    struct waiter waiter = {
        .request = {.in = from, .out = to, .in_bytes = in_len, .out_bytes = room, .done = on_done},
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER,
    };

    waiter.request.in_count = cut(from, in, in_len, at);
    waiter.request.out_count = cut(to, out, room, at);
    if (!fs_submit(g->fs, &waiter.request)) {
        pthread_mutex_lock(&waiter.mutex);
        while (!waiter.done)
            pthread_cond_wait(&waiter.cond, &waiter.mutex);
        pthread_mutex_unlock(&waiter.mutex);
        fs_drain(g->fs);
    }
    if (waiter.request.written > room)
        abort();
    return waiter.request.written;
}

static void remember(uint64_t list[KNOWN], unsigned *count, const uint8_t *from)
{
    uint64_t id;

    memcpy(&id, from, sizeof(id));
    list[(*count)++ % KNOWN] = id;
}

/* What the answer tells the guest. */
static void learn(struct guest *g, uint32_t opcode, const uint8_t *out, uint64_t len)
{
    const uint8_t *body = out + sizeof(struct fuse_out_header);

    len -= MIN(len, sizeof(struct fuse_out_header));
    switch (opcode) {
    case FUSE_CREATE:
        if (len >= sizeof(struct fuse_entry_out) + 8)
            remember(g->file, &g->files, body + sizeof(struct fuse_entry_out));
        /* fall through */
    case FUSE_LOOKUP:
    case FUSE_MKDIR:
    case FUSE_MKNOD:
    case FUSE_SYMLINK:
    case FUSE_LINK:
        if (len >= sizeof(struct fuse_entry_out))
            remember(g->node, &g->nodes, body);
        break;
    case FUSE_OPEN:
    case FUSE_OPENDIR:
        if (len >= 8)
            remember(g->file, &g->files, body);
        break;
    }
}

static size_t put_name(uint8_t *to, struct input *in)
{
    static const char *const names[] = {"a", "b", "c", "..", ".", "d/e", "", "/etc/passwd"};
    const uint8_t what = (uint8_t)take(in, 1);
    const char *name = names[what % ARRAY_SIZE(names)];

    memcpy(to, name, strlen(name) + 1);
    return strlen(name) + 1;
}

/* One request: the body is the input's, but for a handle at its beginning and names at its end, if it wants them. */
static void request(struct guest *g, struct input *in)
{
    uint8_t packet[sizeof(struct fuse_in_header) + BODY_MAX + 64], out[ROOM];
    struct fuse_in_header header = {.unique = 1};
    const uint8_t how = (uint8_t)take(in, 1), which = (uint8_t)take(in, 1);
    size_t len = sizeof(header), body;
    uint64_t n;

    header.opcode = (uint32_t)take(in, 1) % 54;
    if (header.opcode == FUSE_SYNCFS) /* the whole host would wait */
        header.opcode = FUSE_STATFS;
    header.nodeid = which % 4 ? g->node[which / 4 % KNOWN] : FUSE_ROOT_ID;
    header.uid = header.gid = how & 1 ? 1000 : 0;
    body = (size_t)take(in, 1) * (how & 2 ? 8 : 1);
    body = MIN(MIN(body, BODY_MAX), in->size);
    memcpy(packet + len, in->data, body);
    in->data += body;
    in->size -= body;
    if (how & 4 && body >= 8)
        memcpy(packet + len, &g->file[which / 4 % KNOWN], 8);
    if (how & 8 && body >= 8)
        memcpy(packet + len, &g->node[which % KNOWN], 8);
    len += body;
    if (how & 16)
        len += put_name(packet + len, in);
    if (how & 32)
        len += put_name(packet + len, in);
    header.len = how & 64 ? (uint32_t)take(in, 4) : (uint32_t)len;
    memcpy(packet, &header, sizeof(header));
    n = send_request(g, packet, len, out, how & 128 ? take(in, 1) : ROOM, take(in, 1));
    learn(g, header.opcode, out, n);
}

static void check_beside(void)
{
    struct stat now;

    if (stat(top, &now) || now.st_mtim.tv_sec != before.st_mtim.tv_sec || now.st_mtim.tv_nsec != before.st_mtim.tv_nsec)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    const uint8_t kind = (uint8_t)take(&in, 1);
    struct fs_config config = {.path = share, .readonly = kind & 1, .constant = (kind & 3) == 3, .writeback = kind & 4};
    struct fuse_init_in init = {.major = 7, .minor = 38, .flags = ~0u};
    struct fuse_in_header header = {.len = sizeof(header) + sizeof(init), .opcode = FUSE_INIT};
    uint8_t first[sizeof(header) + sizeof(init)], out[ROOM];
    struct guest g = {.nodes = 0};

    if (chmod(share, 0755) || !(g.fs = fs_open(&config, "fuzz", NULL))) /* its mode is the guest's to change */
        abort();
    memcpy(first, &header, sizeof(header));
    memcpy(first + sizeof(header), &init, sizeof(init));
    if (!(kind & 8))
        send_request(&g, first, sizeof(first), out, sizeof(out), 0);
    while (in.size)
        request(&g, &in);
    fs_close(g.fs);
    check_beside();
    return 0;
}
