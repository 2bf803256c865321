/* control/config.c: defaults and the parsing of values. */
#include "control/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void config_init(struct config *config)
{
    *config =
        (struct config){.engine = "auto", .memory = CONFIG_MEMORY_DEFAULT, .cpus = 1, .code_cache = CONFIG_CODE_CACHE};
}

/* The binary unit's shift: K M G T, with nothing, "B" or "iB" after it; -1: no such unit. */
static int unit_shift(const char *unit)
{
    static const char letters[] = "KMGT";
    const char *letter;

    if (!*unit)
        return 0;
    letter = strchr(letters, *unit & ~0x20);
    if (!letter || (unit[1] && strcasecmp(unit + 1, "B") && strcasecmp(unit + 1, "iB")))
        return -1;
    return 10 * (int)(letter - letters + 1);
}

/* What sizes an option takes; `whole` begins the sentence that says so. */
struct range {
    uint64_t min, max;
    const char *example, *whole;
};

static int parse_size(const char *option, const char *text, const struct range *range, uint64_t *bytes,
                      struct error *err)
{
    char *end;
    unsigned long long n;
    int shift;

    errno = 0;
    n = strtoull(text, &end, 10);
    shift = unit_shift(end);
    if (end == text || *text == '-' || *text == '+' || shift < 0)
        return error_set(err, -EINVAL, "%s: '%s' is not a size; give one like %s", option, text, range->example);
    if (errno || n > range->max >> shift || n << shift < range->min)
        return error_set(err, -ERANGE, "%s: %s is out of range; %s", option, text, range->whole);
    *bytes = (uint64_t)(n << shift) & PAGE_MASK;
    return 0;
}

int config_parse_memory(const char *option, const char *text, uint64_t *bytes, struct error *err)
{
    static const struct range range = {CONFIG_MEMORY_MIN, CONFIG_MEMORY_MAX, "512M or 2G",
                                       "a guest has from 4M to 1024G"};

    return parse_size(option, text, &range, bytes, err);
}

int config_parse_balloon(const char *option, const char *text, uint64_t *bytes, struct error *err)
{
    static const struct range range = {0, CONFIG_MEMORY_MAX, "256M", "a balloon has from 0 to 1024G"};

    return parse_size(option, text, &range, bytes, err);
}

int config_parse_code_cache(const char *option, const char *text, uint64_t *bytes, struct error *err)
{
    static const struct range range = {CONFIG_CODE_CACHE_MIN, CONFIG_CODE_CACHE_MAX, "16M",
                                       "a processor has from 256K to 1G"};

    return parse_size(option, text, &range, bytes, err);
}

int config_parse_cpus(const char *text, unsigned *cpus, struct error *err)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (end == text || *end || *text == '-' || *text == '+')
        return error_set(err, -EINVAL, "--cpus: '%s' is not a number of processors", text);
    if (errno || n < 1 || n > CONFIG_CPUS_MAX)
        return error_set(err, -ERANGE, "--cpus: %s is out of range; a guest has from 1 to %d processors", text,
                         CONFIG_CPUS_MAX);
    *cpus = (unsigned)n;
    return 0;
}

/* One word after the file's name. */
static int set_disk_word(struct config_disk *disk, char *word, struct error *err)
{
    if (!strcmp(word, "ro"))
        disk->readonly = true;
    else if (!strcmp(word, "scratch"))
        disk->scratch = true;
    else if (!strncmp(word, "id=", 3) && word[3] && strlen(word + 3) <= CONFIG_ID_MAX)
        disk->id = word + 3;
    else
        return error_set(err, -EINVAL, "--disk: '%s' is not understood; there are ro, scratch and id=NAME (%d letters)",
                         word, CONFIG_ID_MAX);
    return 0;
}

int config_add_disk(struct config *config, const char *text, struct error *err)
{
    struct config_disk *disk = &config->disk[config->disk_count];
    char *word, *rest;
    int rc = 0;

    if (config->disk_count == CONFIG_DISKS)
        return error_set(err, -E2BIG, "--disk: more than %d", CONFIG_DISKS);
    rest = strdup(text);
    if (!rest)
        return error_set(err, -ENOMEM, "--disk: no memory");
    *disk = (struct config_disk){.path = strsep(&rest, ","), .id = ""};
    config->disk_count++;
    while (!rc && (word = strsep(&rest, ",")))
        rc = set_disk_word(disk, word, err);
    if (!rc && !*disk->path)
        rc = error_set(err, -EINVAL, "--disk: give it a file: --disk FILE[,ro|scratch|id=NAME]");
    if (!rc && disk->readonly && disk->scratch)
        rc = error_set(err, -EINVAL, "--disk: ro and scratch exclude each other");
    return rc;
}

static bool good_tag(const char *tag)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

    return *tag && *tag != '.' && tag[strspn(tag, letters)] == '\0' && strlen(tag) <= CONFIG_TAG_MAX;
}

/* The directory's own name, whatever way its path takes; "root" for the root. */
static void tag_from_path(const char *path, char *tag, size_t size)
{
    char *whole = realpath(path, NULL);
    const char *slash = whole ? strrchr(whole, '/') : NULL;

    snprintf(tag, size, "%s", !slash ? "" : slash[1] ? slash + 1 : "root");
    free(whole);
}

/* What is behind the last colon is the tag, unless that is a part of the path. */
static int set_tag(struct config_share *share, struct error *err)
{
    char *colon = strrchr(share->path, ':'), name[CONFIG_TAG_MAX + 2];
    const bool given = colon && !strchr(colon, '/') && access(share->path, F_OK);

    if (given) {
        *colon = '\0';
        snprintf(name, sizeof(name), "%s", colon + 1);
    } else {
        tag_from_path(share->path, name, sizeof(name));
    }
    if (!given && !*name)
        return error_set(err, -ENOENT, "--share: '%s': %s", share->path, strerror(errno));
    if (!good_tag(name))
        return error_set(err, -EINVAL,
                         "--share: '%s' is no tag (letters, digits, . _ -, at most %d of them); give one: "
                         "--share %s:TAG",
                         name, CONFIG_TAG_MAX, share->path);
    snprintf(share->tag, sizeof(share->tag), "%.*s", CONFIG_TAG_MAX, name);
    return 0;
}

int config_add_share(struct config *config, const char *text, struct error *err)
{
    struct config_share *share = &config->share[config->share_count];
    char *word, *rest;
    int rc = 0;

    if (config->share_count == CONFIG_SHARES)
        return error_set(err, -E2BIG, "--share: more than %d", CONFIG_SHARES);
    rest = strdup(text);
    if (!rest)
        return error_set(err, -ENOMEM, "--share: no memory");
    *share = (struct config_share){.path = strsep(&rest, ",")};
    config->share_count++;
    while (!rc && (word = strsep(&rest, ","))) {
        if (!strcmp(word, "ro"))
            share->readonly = true;
        else if (!strcmp(word, "writeback"))
            share->writeback = true;
        else
            rc = error_set(err, -EINVAL, "--share: '%s' is not understood; there are ro and writeback", word);
    }
    if (!rc && !*share->path)
        rc = error_set(err, -EINVAL, "--share: give it a directory: --share DIR[:TAG][,ro][,writeback]");
    if (!rc)
        rc = set_tag(share, err);
    for (unsigned i = 0; !rc && i + 1 < config->share_count; i++)
        if (!strcmp(config->share[i].tag, share->tag))
            rc = error_set(err, -EEXIST, "--share: two of the tag '%s'; give one of them another: --share %s:TAG",
                           share->tag, share->path);
    return rc;
}

int config_set_root(struct config *config, const char *text, struct error *err)
{
    if (strcmp(text, "host"))
        return error_set(err, -EINVAL, "--root: there is no '%s'; there is host", text);
    config->host_root = true;
    return 0;
}

int config_set_net(struct config *config, const char *text, struct error *err)
{
    if (!strcmp(text, "user")) {
        config->net = CONFIG_NET_USER;
    } else if (!strcmp(text, "none")) {
        config->net = CONFIG_NET_NONE;
    } else if (!strncmp(text, "tap=", 4) && text[4]) {
        config->net = CONFIG_NET_TAP;
        config->tap = text + 4;
    } else {
        return error_set(err, -EINVAL, "--net: there is no '%s'; there are user, none and tap=NAME", text);
    }
    return 0;
}

/* A port's number up to one of the characters in `ends`; 0: none. */
static uint16_t parse_port(const char **text, const char *ends)
{
    char *end;
    unsigned long port = strtoul(*text, &end, 10);
    bool good = end != *text && **text != '-' && **text != '+' && port <= UINT16_MAX && (!*end || strchr(ends, *end));

    *text = end;
    return good ? (uint16_t)port : 0;
}

int config_add_publish(struct config *config, const char *text, struct error *err)
{
    struct net_publish *publish = &config->publish[config->publish_count];
    const char *at = text, *address_end = strchr(text, ':');
    struct in_addr address = {.s_addr = htonl(INADDR_LOOPBACK)};
    char copy[16];

    if (config->publish_count == CONFIG_PUBLISH)
        return error_set(err, -E2BIG, "--publish: more than %d", CONFIG_PUBLISH);
    if (address_end && strchr(address_end + 1, ':') && address_end - text < (int)sizeof(copy)) {
        snprintf(copy, sizeof(copy), "%.*s", (int)(address_end - text), text);
        if (inet_pton(AF_INET, copy, &address) != 1)
            return error_set(err, -EINVAL, "--publish: '%s' is not an IPv4 address", copy);
        at = address_end + 1;
    }
    *publish = (struct net_publish){.host_address = ntohl(address.s_addr), .host_port = parse_port(&at, ":")};
    if (*at == ':')
        at++;
    publish->guest_port = parse_port(&at, "/");
    publish->udp = !strcmp(at, "/udp");
    if (!publish->host_port || !publish->guest_port || (*at && !publish->udp && strcmp(at, "/tcp")))
        return error_set(err, -EINVAL,
                         "--publish: '%s' is not understood; give it as [ADDRESS:]HOSTPORT:GUESTPORT[/udp]", text);
    config->publish_count++;
    return 0;
}

int config_set_vsock(struct config *config, const char *text, struct error *err)
{
    char *path = strdup(text), *word, *end = NULL;
    unsigned long long cid = CONFIG_CID;

    free(config->vsock);
    config->vsock = path;
    if (!path)
        return error_set(err, -ENOMEM, "--vsock: no memory");
    word = strchr(path, ',');
    if (word) {
        *word++ = 0;
        cid = !strncmp(word, "cid=", 4) ? strtoull(word + 4, &end, 10) : 0;
    }
    if (!*path || cid < CONFIG_CID || cid >= UINT32_MAX || (end && *end))
        return error_set(err, -EINVAL, "--vsock: '%s' is not understood; give it as PATH[,cid=N], N from %d on", text,
                         CONFIG_CID);
    config->vsock_cid = (uint32_t)cid;
    return 0;
}

void config_free(struct config *config)
{
    while (config->disk_count)
        free(config->disk[--config->disk_count].path);
    while (config->share_count)
        free(config->share[--config->share_count].path);
    free(config->vsock);
}
