/*
 * engine/bt/cache.c: the memory of translated code: one region, mapped twice
 * (writable here, executable there, never both), filled segment by segment; when
 * it is full the oldest segment's translations make room. Also the links between
 * translations.
 */
#include "engine/bt/bt_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The same memory twice: a file without a name. */
static int map_file(struct bt_cache *cache)
{
    int fd = memfd_create("trapeze-code", MFD_CLOEXEC), rc = 0;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)cache->size)) {
        rc = -errno;
    } else {
        cache->rw = mmap(NULL, cache->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        cache->rx = mmap(NULL, cache->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    close(fd);
    return rc;
}

/* The same without a file: perf looks into its map only for memory that it takes for anonymous. */
static int map_for_perf(struct bt_cache *cache)
{
    cache->rw = mmap(NULL, cache->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (cache->rw == MAP_FAILED)
        return -errno;
    cache->rx = mremap(cache->rw, 0, cache->size, MREMAP_MAYMOVE); /* shared memory stays where it was, too */
    return cache->rx != MAP_FAILED && mprotect(cache->rx, cache->size, PROT_READ | PROT_EXEC) ? -errno : 0;
}

int bt_cache_init(struct bt_vcpu *vcpu, size_t size)
{
    struct bt_cache *cache = &vcpu->cache;
    int rc;

    cache->size = size;
    cache->segments = (unsigned)MIN(size / BT_SEGMENT_MIN, BT_SEGMENTS);
    cache->segment_size = size / cache->segments & PAGE_MASK;
    cache->active = (unsigned)MAX(1, MIN(BT_CACHE_FIRST / cache->segment_size, cache->segments));
    rc = bt_perf_map_is_on() ? map_for_perf(cache) : map_file(cache);
    return rc ? rc : cache->rw == MAP_FAILED || cache->rx == MAP_FAILED ? -ENOMEM : 0;
}

void bt_cache_fini(struct bt_vcpu *vcpu)
{
    struct bt_cache *cache = &vcpu->cache;

    bt_cache_flush(vcpu);
    bt_code_free_dying(vcpu);
    for (unsigned i = 0; i < BT_SEGMENTS; i++)
        free(cache->segment[i].place);
    if (cache->rw && cache->rw != MAP_FAILED)
        munmap(cache->rw, cache->size);
    if (cache->rx && cache->rx != MAP_FAILED)
        munmap(cache->rx, cache->size);
}

/* --- links --------------------------------------------------------------------------------------- */

static void write_jump(struct bt_vcpu *vcpu, uint32_t patch, uint32_t target)
{
    uint32_t rel = target - (patch + 4);

    memcpy(vcpu->cache.rw + patch, &rel, 4);
}

static void unlink_edge(struct bt_vcpu *vcpu, struct bt_edge *edge)
{
    if (!edge->to)
        return;
    *edge->link = edge->next_in;
    if (edge->next_in)
        edge->next_in->link = edge->link;
    edge->to = NULL;
    write_jump(vcpu, edge->patch, edge->stub);
}

void bt_link(struct bt_vcpu *vcpu, struct bt_edge *edge, struct bt_code *to)
{
    unlink_edge(vcpu, edge);
    edge->to = to;
    edge->link = &to->in;
    edge->next_in = to->in;
    if (to->in)
        to->in->link = &edge->next_in;
    to->in = edge;
    write_jump(vcpu, edge->patch, edge->cross ? to->entry_checked : edge->flags_m ? to->entry_m : to->entry_h);
}

/* Return addresses of code that goes away, or is not to be returned to, leave the return stack. */
void bt_forget_returns(struct bt_vcpu *vcpu)
{
    vcpu->frame.sp = vcpu->frame.base;
}

/* An empty entry's key is no address's: salts are random numbers, which addresses are added to. */
void bt_forget_jumps(struct bt_vcpu *vcpu)
{
    memset(vcpu->frame.jump, 0, sizeof(vcpu->frame.jump));
}

/* The newest goes first, what was there to the other way. */
void bt_learn_jump(struct bt_vcpu *vcpu, const struct bt_code *code)
{
    const uint64_t lin = bt_linear_rip(vcpu);
    struct bt_jump *way = bt_jump_slot(vcpu, lin);

    way[1] = way[0];
    way[0] = (struct bt_jump){.key = lin + vcpu->soft.tlb.context, .entry = bt_host(vcpu, code->entry_m)};
}

void bt_mend_jump(struct bt_vcpu *vcpu, const struct bt_code *code)
{
    const uint64_t lin = bt_linear_rip(vcpu);
    struct bt_jump *way = bt_jump_slot(vcpu, lin);

    for (unsigned i = 0; i < 2; i++)
        if (way[i].key == lin + vcpu->soft.tlb.context)
            way[i].entry = bt_host(vcpu, code->entry_m);
}

/* --- faults ---------------------------------------------------------------------------------------- */

/* The last place at or before the offset. */
static struct bt_place *find_place(const struct bt_segment *segment, uint32_t at)
{
    unsigned low = 0, high = segment->places;

    while (low < high) {
        const unsigned middle = (low + high) / 2;

        if (segment->place[middle].start <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &segment->place[low - 1] : NULL;
}

uint32_t bt_code_fault(const struct bt_vcpu *vcpu, uint32_t at)
{
    const struct bt_segment *segment = &vcpu->cache.segment[MIN(at / vcpu->cache.segment_size, BT_SEGMENTS - 1)];
    const struct bt_place *place = find_place(segment, at);
    unsigned n;

    if (!place || !place->code || at >= place->end || at < place->code->fault[0].at)
        return 0;
    for (n = 1; n < place->code->faults && place->code->fault[n].at <= at; n++)
        ;
    return place->code->fault[n - 1].to;
}

/* false: no memory. Translations come by address, for a segment is filled that way. */
static bool enter_place(struct bt_segment *segment, struct bt_code *code)
{
    const unsigned room = MAX(2 * segment->places_room, 64);
    struct bt_place *place = segment->place;

    if (!code->faults)
        return true;
    if (segment->places == segment->places_room) {
        place = realloc(place, room * sizeof(*place));
        if (!place)
            return false;
        segment->place = place;
        segment->places_room = room;
    }
    place[segment->places++] = (struct bt_place){.start = code->start, .end = code->end, .code = code};
    return true;
}

static void leave_place(const struct bt_segment *segment, const struct bt_code *code)
{
    struct bt_place *place = code->faults ? find_place(segment, code->start) : NULL;

    if (place && place->code == code)
        place->code = NULL;
}

/* --- life ---------------------------------------------------------------------------------------- */

bool bt_cache_enter(struct bt_vcpu *vcpu, struct bt_code *code)
{
    struct bt_cache *cache = &vcpu->cache;

    if (!enter_place(&cache->segment[cache->current], code))
        return false;
    cache->used = (uint32_t)ALIGN_UP(code->end, 16);
    cache->cold_used = code->cold_end;
    code->segment = (uint8_t)cache->current;
    code->link = &cache->segment[cache->current].codes;
    code->next = *code->link;
    if (code->next)
        code->next->link = &code->next;
    *code->link = code;
    cache->segment[cache->current].used = true;
    code->block->translation = code;
    ghosts_made(&cache->ghosts, code->block->key);
    vcpu->soft.code.bytes -= block_size(code->block);
    vcpu->soft.cpu.counters.blocks_translated++;
    return true;
}

/* No way leads into the translation any more but through those who are in it. Its memory is freed between blocks; its
 * host code is written over when the segment is recycled. */
void bt_code_drop(struct bt_vcpu *vcpu, struct bt_code *code)
{
    uint8_t *entry = vcpu->cache.rw + code->entry_m;

    while (code->in)
        unlink_edge(vcpu, code->in);
    for (unsigned i = 0; i < code->edges; i++)
        unlink_edge(vcpu, &code->edge[i]);
    *entry = 0xe9; /* the jump table may still lead here */
    write_jump(vcpu, code->entry_m + 1, code->stale);
    *code->link = code->next;
    if (code->next)
        code->next->link = code->link;
    leave_place(&vcpu->cache.segment[code->segment], code);
    code->block->translation = NULL;
    code->block->heat = 0; /* it may be translated again */
    vcpu->soft.code.bytes += block_size(code->block);
    code->dropped = true;
    code->next = vcpu->dying;
    vcpu->dying = code;
    bt_forget_returns(vcpu);
}

void bt_code_free_dying(struct bt_vcpu *vcpu)
{
    while (vcpu->dying) {
        struct bt_code *code = vcpu->dying;

        vcpu->dying = code->next;
        free(code);
    }
}

/* Dropped translations too have left traces of where they lay: in the jump table. */
static void recycle(struct bt_vcpu *vcpu, unsigned segment)
{
    struct bt_cache *cache = &vcpu->cache;

    if (!cache->segment[segment].used)
        return;
    cache->segment[segment].used = false;
    while (cache->segment[segment].codes) {
        ghosts_put_out(&cache->ghosts, cache->segment[segment].codes->block->key);
        bt_code_drop(vcpu, cache->segment[segment].codes);
    }
    cache->segment[segment].places = 0;
    bt_forget_jumps(vcpu);
    bt_forget_returns(vcpu);
    cache->recycled++;
    vcpu->soft.cpu.counters.code_recycled++;
}

static uint32_t segment_begin(const struct bt_vcpu *vcpu, unsigned segment)
{
    return segment ? (uint32_t)(segment * vcpu->cache.segment_size) : vcpu->thunk.end;
}

static uint32_t segment_split(const struct bt_vcpu *vcpu, unsigned segment)
{
    return (uint32_t)(segment * vcpu->cache.segment_size + vcpu->cache.segment_size * BT_HOT_SHARE);
}

/* The oldest segment; a fresh one if what the last ones' translations made room for is wanted again. */
static unsigned next_segment(struct bt_cache *cache)
{
    const unsigned active = cache->active;

    if (ghosts_many(&cache->ghosts) && active < cache->segments) {
        cache->active = MIN(2 * active, cache->segments);
        return active;
    }
    return (cache->current + 1) % active;
}

void bt_cache_reserve(struct bt_vcpu *vcpu, size_t bytes, size_t cold_bytes)
{
    struct bt_cache *cache = &vcpu->cache;

    if (cache->used && cache->used + bytes <= segment_split(vcpu, cache->current) &&
        cache->cold_used + cold_bytes <= (cache->current + 1) * cache->segment_size)
        return;
    if (cache->used)
        cache->current = next_segment(cache);
    recycle(vcpu, cache->current);
    cache->used = segment_begin(vcpu, cache->current);
    cache->cold_used = segment_split(vcpu, cache->current);
}

void bt_cache_flush(struct bt_vcpu *vcpu)
{
    for (unsigned i = 0; i < vcpu->cache.segments; i++)
        recycle(vcpu, i);
}
