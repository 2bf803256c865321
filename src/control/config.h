/*
 * control/config.h: what the user asked for, checked, before anything is made.
 */
#ifndef CONTROL_CONFIG_H
#define CONTROL_CONFIG_H

#include "backend/net/net.h"
#include "base/error.h"
#include "base/types.h"

#define CONFIG_MEMORY_DEFAULT MIB(512)
#define CONFIG_MEMORY_MIN     MIB(4)
#define CONFIG_MEMORY_MAX     GIB(1024)

#define CONFIG_CPUS_MAX 64

#define CONFIG_CODE_CACHE     MIB(256)
#define CONFIG_CODE_CACHE_MIN KIB(256)
#define CONFIG_CODE_CACHE_MAX GIB(1)

/* Exit statuses of `trapeze run` that are not the guest's own. */
enum {
    STATUS_USAGE = 2,      /* the user's mistake: options, files */
    STATUS_RESET = 120,    /* the guest reset itself: a kernel panic, reboot */
    STATUS_SHUTDOWN = 121, /* triple fault */
    STATUS_MONITOR = 122,  /* the monitor could not go on */
    STATUS_SIGNAL = 128,   /* + the number of the signal that ended it */
};

#define CONFIG_DISKS  16
#define CONFIG_ID_MAX 20

struct config_disk {
    char *path;
    const char *id;
    bool readonly, scratch;
};

#define CONFIG_SHARES  8
#define CONFIG_TAG_MAX 36

struct config_share {
    char *path;
    char tag[CONFIG_TAG_MAX + 1]; /* letters, digits, "._-" */
    bool readonly, writeback;
};

#define CONFIG_PUBLISH 32
#define CONFIG_CID     3 /* the first that a guest can have */

enum config_net { CONFIG_NET_USER, CONFIG_NET_NONE, CONFIG_NET_TAP };

struct config {
    const char *kernel, *initrd, *append; /* NULL: the default guest's */
    const char *engine;
    uint64_t memory; /* bytes */
    unsigned cpus;
    uint64_t code_cache; /* bytes */
    bool stats;
    bool perf_map;
    bool demo; /* default guest: run the demonstration instead of a shell */
    unsigned trace_mask;
    const char *trace_file; /* NULL: stderr */
    struct config_disk disk[CONFIG_DISKS];
    unsigned disk_count;
    struct config_share share[CONFIG_SHARES];
    unsigned share_count;
    bool host_root; /* default guest: its root is the host's, with a throw-away layer over it */
    enum config_net net;
    const char *tap; /* CONFIG_NET_TAP */
    struct net_publish publish[CONFIG_PUBLISH];
    unsigned publish_count;
    char *vsock;         /* the socket's path; NULL: none */
    uint32_t vsock_cid;  /* the guest's address */
    const char *control; /* the control socket's path; NULL: none */
    char **command;      /* after --: NULL-terminated, or NULL */
};

void config_init(struct config *config);

/* "512M", "2G", "65536K", "1T", or a number of bytes. -EINVAL, -ERANGE with a message that begins with option. */
int config_parse_memory(const char *option, const char *text, uint64_t *bytes, struct error *err);
int config_parse_balloon(const char *option, const char *text, uint64_t *bytes, struct error *err);
int config_parse_code_cache(const char *option, const char *text, uint64_t *bytes, struct error *err);

/* --cpus: how many processors. -EINVAL, -ERANGE with a message. */
int config_parse_cpus(const char *text, unsigned *cpus, struct error *err);

/* "FILE[,ro][,scratch][,id=NAME]": one disk more. -EINVAL, -E2BIG, -ENOMEM with a message. */
int config_add_disk(struct config *config, const char *text, struct error *err);
/* "DIR[:TAG][,ro][,writeback]": one shared directory more. Without TAG it is the directory's name. -EINVAL, -E2BIG,
 * -EEXIST (the tag), -ENOMEM with a message. */
int config_add_share(struct config *config, const char *text, struct error *err);
/* "host". -EINVAL with a message. */
int config_set_root(struct config *config, const char *text, struct error *err);
/* "user", "none" or "tap=NAME". -EINVAL with a message. */
int config_set_net(struct config *config, const char *text, struct error *err);
/* "[ADDRESS:]HOSTPORT:GUESTPORT[/udp]". -EINVAL, -E2BIG with a message. */
int config_add_publish(struct config *config, const char *text, struct error *err);
/* "PATH[,cid=N]". -EINVAL, -ENOMEM with a message. */
int config_set_vsock(struct config *config, const char *text, struct error *err);
void config_free(struct config *config);

#endif
