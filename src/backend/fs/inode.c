/*
 * backend/fs/inode.c: the nodes a guest knows. A node ID is a slot of the
 * table and a generation; a file is found again by what tells it from others on
 * the host, whatever name it is met under. A node lives as long as the guest
 * remembers it, somebody uses it, or a child needs it to be found.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

#define NODES_MIN 1024u

uint32_t fs_take_slot(struct fs_slots *slots)
{
    if (slots->free_count)
        return slots->free[--slots->free_count];
    return slots->used < slots->max ? slots->used++ : UINT32_MAX;
}

void fs_drop_slot(struct fs_slots *slots, uint32_t slot)
{
    slots->free[slots->free_count++] = slot;
}

/* --- the table, with the lock held -------------------------------------------------------------- */

static struct fs_inode **bucket(const struct fs *fs, const struct fs_key *key)
{
    uint64_t mixed = (key->ino ^ key->dev << 40 ^ key->btime >> 10) * 0x9e3779b97f4a7c15ull;

    return &fs->hash[mixed >> 32 & (fs->hash_size - 1)];
}

static struct fs_inode *find(const struct fs *fs, const struct fs_key *key)
{
    struct fs_inode *inode = *bucket(fs, key);

    while (inode && !fs_same(&inode->key, key))
        inode = inode->next;
    return inode;
}

/* As many chains as nodes; if there is no memory for that, longer chains. */
static void grow_hash(struct fs *fs)
{
    uint32_t old_size = fs->hash_size;
    struct fs_inode **old = fs->hash, **grown = calloc(2 * (size_t)old_size, sizeof(*grown));

    if (!grown)
        return;
    fs->hash = grown;
    fs->hash_size = 2 * old_size;
    for (uint32_t i = 0; i < old_size; i++)
        while (old[i]) {
            struct fs_inode *inode = old[i], **to = bucket(fs, &inode->key);

            old[i] = inode->next;
            inode->next = *to;
            *to = inode;
        }
    free(old);
}

/* Makes room for one node more. */
static bool grow_nodes(struct fs *fs)
{
    uint32_t room = MIN(2 * fs->node_slots.max, FS_NODES_MAX);
    struct fs_inode **node;
    uint32_t *free_slots;

    if (fs->node_slots.free_count || fs->node_slots.used < fs->node_slots.max)
        return true;
    if (room == fs->node_slots.max)
        return false;
    node = realloc(fs->node, room * sizeof(*node));
    if (node)
        fs->node = node;
    free_slots = realloc(fs->node_slots.free, room * sizeof(*free_slots));
    if (free_slots)
        fs->node_slots.free = free_slots;
    if (!node || !free_slots)
        return false;
    fs->node_slots.max = room;
    grow_hash(fs);
    return true;
}

static struct fs_inode *add(struct fs *fs, const struct fs_key *key)
{
    struct fs_inode *inode = grow_nodes(fs) ? calloc(1, sizeof(*inode)) : NULL, **chain;
    uint32_t slot;

    if (!inode)
        return NULL;
    slot = fs_take_slot(&fs->node_slots);
    inode->key = *key;
    inode->fd = -1;
    inode->id = slot | (uint64_t)fs->generation++ << 32;
    fs->node[slot] = inode;
    chain = bucket(fs, key);
    inode->next = *chain;
    *chain = inode;
    return inode;
}

static void drop(struct fs *fs, struct fs_inode *inode)
{
    struct fs_inode **link = bucket(fs, &inode->key);

    while (*link != inode)
        link = &(*link)->next;
    *link = inode->next;
    fs->node[(uint32_t)inode->id] = NULL;
    fs_drop_slot(&fs->node_slots, (uint32_t)inode->id);
    if (inode->fd >= 0)
        fs_close_fd(inode->fd);
    free(inode->name);
    free(inode);
}

/* Drops a node that nobody needs, and then perhaps its parents. */
static void drop_unused(struct fs *fs, struct fs_inode *inode)
{
    while (inode && inode->parent && !inode->lookups && !inode->uses && !inode->children) {
        struct fs_inode *parent = inode->parent;

        drop(fs, inode);
        parent->children--;
        inode = parent;
    }
}

static void set_place(struct fs *fs, struct fs_inode *inode, struct fs_inode *parent, const char *name)
{
    struct fs_inode *old = inode->parent;
    char *copy;

    if (inode->id == FUSE_ROOT_ID || (old == parent && inode->name && !strcmp(inode->name, name)))
        return;
    copy = strdup(name);
    if (!copy || parent == inode) {
        free(copy); /* the old place may be right still; if not, the node is found to be stale */
        return;
    }
    free(inode->name);
    inode->name = copy;
    inode->parent = parent;
    parent->children++;
    if (old) {
        old->children--;
        drop_unused(fs, old);
    }
}

static struct fs_inode *by_id(const struct fs *fs, uint64_t id)
{
    const uint32_t slot = (uint32_t)id;
    struct fs_inode *inode = slot < fs->node_slots.used ? fs->node[slot] : NULL;

    return inode && inode->id == id ? inode : NULL;
}

/* --- for the others -------------------------------------------------------------------------------- */

int fs_nodes_init(struct fs *fs, const struct statx *root)
{
    const struct fs_key key = fs_key(fs, root);
    struct fs_inode *inode;

    fs->hash_size = NODES_MIN;
    fs->hash = calloc(fs->hash_size, sizeof(struct fs_inode *));
    fs->node = calloc(NODES_MIN, sizeof(struct fs_inode *));
    fs->node_slots =
        (struct fs_slots){.free = calloc(NODES_MIN, sizeof(uint32_t)), .used = FUSE_ROOT_ID, .max = NODES_MIN};
    inode = fs->hash && fs->node && fs->node_slots.free ? add(fs, &key) : NULL; /* slot 1, generation 0 */
    if (!inode)
        return -1;
    inode->lookups = 1;
    inode->fd = fs->root;
    inode->pinned = true;
    return 0;
}

void fs_nodes_free(struct fs *fs)
{
    for (uint32_t slot = 0; fs->node && slot < fs->node_slots.used; slot++) {
        struct fs_inode *inode = fs->node[slot];

        if (!inode)
            continue;
        if (inode->fd >= 0 && inode->id != FUSE_ROOT_ID)
            fs_close_fd(inode->fd);
        free(inode->name);
        free(inode);
    }
    free(fs->node);
    free(fs->node_slots.free);
    free(fs->hash);
}

void fs_forget_nodes(struct fs *fs)
{
    lock_take(&fs->lock);
    for (uint32_t slot = FUSE_ROOT_ID + 1; slot < fs->node_slots.used; slot++)
        if (fs->node[slot])
            fs->node[slot]->lookups = 0;
    for (uint32_t slot = FUSE_ROOT_ID + 1; slot < fs->node_slots.used; slot++)
        drop_unused(fs, fs->node[slot]);
    lock_drop(&fs->lock);
}

struct fs_inode *fs_get(struct fs *fs, uint64_t id)
{
    struct fs_inode *inode;

    lock_take(&fs->lock);
    inode = by_id(fs, id);
    if (inode && !inode->lookups)
        inode = NULL;
    if (inode)
        inode->uses++;
    lock_drop(&fs->lock);
    return inode;
}

void fs_put(struct fs *fs, struct fs_inode *inode)
{
    lock_take(&fs->lock);
    inode->uses--;
    drop_unused(fs, inode);
    lock_drop(&fs->lock);
}

struct fs_inode *fs_find(struct fs *fs, const struct fs_key *key)
{
    struct fs_inode *inode;

    lock_take(&fs->lock);
    inode = find(fs, key);
    if (inode)
        inode->uses++;
    lock_drop(&fs->lock);
    return inode;
}

uint64_t fs_learn(struct fs *fs, struct fs_inode *parent, const char *name, const struct statx *st, bool closed)
{
    const struct fs_key key = fs_key(fs, st);
    struct fs_inode *inode;
    uint64_t id = 0;

    lock_take(&fs->lock);
    inode = find(fs, &key);
    if (!inode && (inode = add(fs, &key)))
        inode->closed = closed;
    if (inode) {
        set_place(fs, inode, parent, name);
        if (inode->name || inode->id == FUSE_ROOT_ID) {
            inode->lookups++;
            id = inode->id;
        } else {
            drop(fs, inode);
        }
    }
    lock_drop(&fs->lock);
    return id;
}

void fs_forget(struct fs *fs, uint64_t id, uint64_t times)
{
    struct fs_inode *inode;

    lock_take(&fs->lock);
    inode = by_id(fs, id);
    if (inode && inode->id != FUSE_ROOT_ID) {
        inode->lookups -= MIN(times, inode->lookups);
        drop_unused(fs, inode);
    }
    lock_drop(&fs->lock);
}

void fs_moved(struct fs *fs, const struct fs_key *key, struct fs_inode *parent, const char *name)
{
    struct fs_inode *inode;

    lock_take(&fs->lock);
    inode = find(fs, key);
    if (inode)
        set_place(fs, inode, parent, name);
    lock_drop(&fs->lock);
}

#define EVICT_AT_ONCE 64

bool fs_evict(struct fs *fs)
{
    unsigned closed = 0;

    lock_take(&fs->lock);
    for (uint32_t i = 0; i < fs->node_slots.used && closed < EVICT_AT_ONCE; i++) {
        struct fs_inode *inode;

        fs->hand = fs->hand + 1 < fs->node_slots.used ? fs->hand + 1 : 0;
        inode = fs->node[fs->hand];
        if (!inode || inode->fd < 0 || inode->pinned || inode->uses)
            continue;
        fs_close_fd(inode->fd);
        inode->fd = -1;
        closed++;
    }
    lock_drop(&fs->lock);
    return closed;
}
