/*
 * exec/native_code.c: where stubs live: one memory file mapped twice, writable
 * and executable, and a table of what is in it. Both only grow, up to a bound
 * that is above the number of distinct instructions there are (the unit test
 * counts them), so a guest cannot fill them. Knows nothing of instructions.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "x86/exec/native_internal.h"

#define AREA_SIZE MIB(16)
#define SLOTS     (1u << 18)
#define MAX_STUBS (SLOTS / 4 * 3)

struct slot {
    uint64_t key; /* 0: free (no key is 0: its length is not) */
    struct x86_stub stub;
};

static struct {
    pthread_mutex_t lock; /* a leaf: nothing is called under it but the maker */
    bool tried;
    uint8_t *writable, *executable; /* NULL: no executable memory */
    struct slot *slots;
    uint64_t used;
    unsigned count;
} area = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *map(int fd, int prot, int flags, uint64_t size)
{
    void *p = mmap(NULL, size, prot, flags, fd, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void open_area(void)
{
    int fd = memfd_create("trapeze-stubs", MFD_CLOEXEC);

    area.tried = true;
    if (fd >= 0 && ftruncate(fd, (off_t)AREA_SIZE) == 0) {
        area.slots =
            map(-1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, SLOTS * sizeof(struct slot));
        area.writable = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED, AREA_SIZE);
        if (area.slots && area.writable)
            area.executable = map(fd, PROT_READ | PROT_EXEC, MAP_SHARED, AREA_SIZE);
    }
    if (!area.executable)
        log_error("no executable memory for floating-point and vector instructions (%s): guests will get #UD",
                  strerror(errno));
    if (fd >= 0)
        close(fd);
}

static struct slot *find(uint64_t key)
{
    unsigned i = (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 40) % SLOTS;

    while (area.slots[i].key && area.slots[i].key != key)
        i = (i + 1) % SLOTS;
    return &area.slots[i];
}

static const struct x86_stub *add(struct slot *slot, uint64_t key, const struct x86_stub *stub,
                                  const struct x86_code *code)
{
    if (code->length > sizeof(code->bytes) || area.count >= MAX_STUBS || code->length > AREA_SIZE - area.used)
        return NULL;
    memcpy(area.writable + area.used, code->bytes, code->length);
    slot->stub = *stub;
    slot->stub.run = (x86_stub_fn *)(uintptr_t)(area.executable + area.used);
    if (code->light)
        slot->stub.light = (x86_light_fn *)(uintptr_t)(area.executable + area.used + code->light);
    slot->key = key;
    area.used += ALIGN_UP(code->length, 16);
    area.count++;
    return &slot->stub;
}

const struct x86_stub *x86_stub_get(const struct x86_stub_key *key, x86_stub_maker *make)
{
    const struct x86_stub *found = NULL;
    struct x86_stub stub = {0};
    struct x86_code code = {.length = 0};
    struct slot *slot;
    uint64_t word;

    _Static_assert(sizeof(*key) == sizeof(word), "a key is one word");
    memcpy(&word, key, sizeof(word));
    pthread_mutex_lock(&area.lock);
    if (!area.tried)
        open_area();
    if (area.executable) {
        slot = find(word);
        if (slot->key)
            found = &slot->stub;
        else if (make(key, &stub, &code))
            found = add(slot, word, &stub, &code);
    }
    pthread_mutex_unlock(&area.lock);
    return found;
}

unsigned x86_stub_count(void)
{
    return area.count;
}
