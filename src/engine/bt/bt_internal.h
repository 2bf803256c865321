/*
 * engine/bt/bt_internal.h: the translator's data: a vCPU with its frame, the
 * translation of a block, its sites (places that may leave translated code) and
 * its edges (ways to other blocks).
 *
 * While translated code runs: guest registers are in host registers as `host_of`
 * tells (bt/emit.h), the others in cpu.gpr; cpu.rip holds the guest address of
 * offset 0 of the page the code lies in; status flags are in the host's RFLAGS,
 * in near.flags, or in both, as the translator knows at each place.
 */
#ifndef ENGINE_BT_INTERNAL_H
#define ENGINE_BT_INTERNAL_H

#include "engine/soft/run.h"

#define BT_JUMPS        16384 /* entries of the jump table */
#define BT_JUMP_HASH    0x9e3779b1u
#define BT_JUMP_WAY     ((uint32_t)sizeof(struct bt_jump))                    /* offset of a slot's other way */
#define BT_JUMP_MASK    ((uint32_t)((BT_JUMPS - 2) * sizeof(struct bt_jump))) /* of the hash: offset of a slot */
#define BT_RETURN_BYTES KIB(256)
#define BT_STACK_SLACK  KIB(64) /* below the limit: what is pushed between two looks at it */
#define BT_SEGMENTS     64
#define BT_CACHE_FIRST  MIB(32) /* in use at first */
#define BT_SEGMENT_MIN  KIB(64) /* the largest translation fits, beside the thunks */
#define BT_HOT_SHARE    1 / 2   /* of a segment, for straight paths */
#define BT_WINDOWS      8
#define BT_MNEMONICS    2048
#ifndef BT_HEAT
#define BT_HEAT 24 /* the how manieth run of a block is that of its translation */
#endif
#ifndef BT_HEAT_USER
#define BT_HEAT_USER 2 /* if that is at privilege level 3 */
#endif
#ifndef BT_SPLIT
#define BT_SPLIT 32 /* a group of accesses is split when it has lain in two pages so often */
#endif

/* Shadow spaces (shadow.h): linear addresses in pieces of 1 << BT_REGION_SHIFT bytes, as many as user space has; the
 * table of them that translated code looks into may be indexed by whatever 64 bits hold. */
#define BT_REGION_SHIFT  42
#define BT_REGIONS       (1u << (47 - BT_REGION_SHIFT))
#define BT_REGIONS_FENCE (8ull << (64 - BT_REGION_SHIFT))

struct bt_code;
struct bt_vcpu;
struct bt_shadow;

/* A way from one translation to another: a jump whose displacement is written when the target is known. */
struct bt_edge {
    struct bt_code *from, *to;
    struct bt_edge *next_in, **link; /* of the edges to the same translation; what leads to it among them */
    uint32_t patch;                  /* offset in the code region of the rel32 */
    uint32_t stub;                   /* where it leads while there is no target */
    int32_t target;                  /* offset of the target from the start of this page */
    bool cross;            /* in another page: goes in by the target's checked entry, its page's address in S0 */
    bool flags_h, flags_m; /* where the flags are on the way */
    bool sti;              /* it lies before it: no interrupt is taken here (its shadow) */
};

/* A place where translated code calls the monitor: to execute instructions [first, last] by their semantics. */
struct bt_site {
    struct bt_code *code;
    uint8_t first, last;
    uint8_t taken;    /* how often a group's check did not pass: see split() */
    uint8_t kind : 2; /* what it is there for */
    bool end : 1;     /* the last of them ends the block */
    bool group : 1;   /* several accesses with one check */
    uint32_t resume;  /* offset in the code region of what follows them */
};

enum bt_site_kind { SITE_MEMORY, SITE_BRANCH, SITE_INSTRUCTION };

/* An access that the host itself checks: where it is in the code region, and where to go on if it faults. The next
 * one's `at`, or the straight path's end, is the end of it. */
struct bt_fault {
    uint32_t at, to;
};

/* The translation of a block. */
struct bt_code {
    struct block *block;
    struct bt_edge *in;                       /* edges that lead here */
    uint32_t start, end;                      /* offsets in the code region */
    uint32_t cold_start, cold_end;            /* of what is off the straight path */
    uint32_t entry_h, entry_m, entry_checked; /* entries: flags in the host's RFLAGS; in the frame; ditto, and the page
                                                 is to be checked */
    uint32_t stale;                           /* where entry_m leads when it is dropped */
    uint16_t page_offset;
    uint8_t segment;
    uint8_t vectors; /* enum bt_vectors: what it needs */
    bool dropped;
    uint16_t edges, sites, faults, max_edges, max_sites, max_faults;
    struct bt_edge *edge;
    struct bt_site *site;
    struct bt_fault *fault;
    struct bt_code *next, **link; /* in its segment; what leads to it there */
    uint16_t offset[];            /* of each instruction and of what follows, in the page */
};

enum bt_vectors { BT_NO_VECTORS, BT_SSE, BT_AVX };

/* Where to go on at a guest address. The key is the linear address plus near.salt: holds in that mapping only. */
struct bt_jump {
    uint64_t key;
    const void *entry;
};

/* What translated code uses most, by displacements of one byte; soft.near. */
struct bt_near {
    uint64_t reserved[2];            /* out of reach */
    const struct x86_tlb_entry *tlb; /* the soft TLB's current table */
    uint64_t stack_tag;              /* the TLB of one entry for the stack */
    uint8_t *stack_host;
    uint64_t salt;  /* of the present address space, privilege and mode: added to return addresses, to jumps' targets */
    uint64_t limit; /* of the return stack */
    uint64_t fits[6];      /* the largest offset in a page of an access of 1 << i bytes */
    uint64_t slot, target; /* of an indirect call: its entry in the jump table, its key */
    uint32_t tlb_mask;     /* for an entry's offset in that table */
    uint16_t flags;        /* AH as by LAHF, AL: OF */
    uint8_t vectors;       /* enum bt_vectors: what the host's registers hold of the guest's */
};
_Static_assert(sizeof(struct bt_near) == SOFT_NEAR, "it ends where the registers begin");

/* What else translated code reaches from its frame pointer. */
struct bt_frame {
    uint64_t sp;   /* top of the return stack, while the monitor runs */
    uint64_t base; /* its bottom */
    uint64_t host_sp;
    uint64_t next; /* host address to go on at */
    uint32_t host_mxcsr;
    uint8_t level;   /* enum bt_vectors: to be loaded; as the monitor is called: what was */
    uint64_t resume; /* where to go on when vectors are loaded */
    int64_t budget;  /* instructions left */
    /* The pages that a loop's accesses went to last; emptied when its second round begins. */
    struct bt_window {
        uint64_t tag, host, offset;
    } window[BT_WINDOWS];
    /* Of a run of rounds without checks: for each window, host address - linear address (or its moving part). */
    uint64_t delta[BT_WINDOWS];
    uint32_t rounds;               /* how many */
    uint64_t last_round;           /* what the register that counts them is then */
    struct bt_jump jump[BT_JUMPS]; /* pairs: two ways of a slot */
};

struct bt_segment {
    struct bt_code *codes;
    bool used;        /* holds host code, perhaps of translations that were dropped */
    struct bt_place { /* translations that have faults, by address; code: NULL: it was dropped */
        uint32_t start, end;
        struct bt_code *code;
    } * place;
    unsigned places, places_room;
};

struct bt_cache {
    uint8_t *rw, *rx;
    size_t size, segment_size;
    unsigned segments, active; /* in all; those in use now: more where the guest's code wants it */
    struct ghosts ghosts;
    /* Of the current segment, offsets in the region: its first part takes straight paths, the other what is off them,
     * so that the host's instruction cache and TLB hold more of what runs. */
    uint32_t used, cold_used;
    unsigned current; /* segment */
    uint64_t recycled;
    struct bt_segment segment[BT_SEGMENTS];
};

/* Host code every translation uses: offsets in the code region. */
#define BT_THUNKS(X)                                                                                                   \
    X(enter)                                                                                                           \
    X(leave)                                                                                                           \
    X(callout) X(leaf) X(link) X(resolve) X(need_vectors) X(load_vectors) X(stack_miss) X(tlb_miss) X(jump_miss)
struct bt_thunks {
#define X(name) uint32_t name;
    BT_THUNKS(X)
#undef X
    uint32_t yes, no; /* return with CF = 0, with CF = 1 */
    uint32_t end;
};

struct bt_vcpu {
    struct soft_vcpu soft; /* first */
    struct bt_frame frame;
    struct bt_cache cache;
    struct bt_thunks thunk;
    struct bt_code *dying; /* dropped; freed between blocks */
    struct exit *exit;     /* run()'s */
    uint64_t end;
    enum soft_outcome outcome;
    bool gs;                       /* GS is the base of the soft TLB's current table while translated code runs */
    bool counting;                 /* translations count instructions: run() was given a budget */
    bool flags_in_host;            /* whoever wants the present block came with the flags in the host's RFLAGS */
    uint8_t *returns;              /* the return stack's memory */
    uint64_t called[BT_MNEMONICS]; /* instructions that are not translated, by ZydisMnemonic: how often executed */
    struct bt_shadow *shadow;      /* NULL: there was none yet */
    uint64_t reserved[4];          /* so that the struct ends with the next member */
    /* What makes a linear address of a region the host's where it is mapped, by number; last, right before what faults
     * if it is touched. See shadow.h for regions that are not mapped. */
    uint64_t region[BT_REGIONS];
};
_Static_assert(offsetof(struct bt_vcpu, region) + sizeof(((struct bt_vcpu *)0)->region) == sizeof(struct bt_vcpu) &&
                   sizeof(struct bt_vcpu) % 64 == 0,
               "translated code goes by it");

/* cache.c */
int bt_cache_init(struct bt_vcpu *vcpu, size_t size);
void bt_cache_fini(struct bt_vcpu *vcpu);
/* Takes a finished translation in. false: no memory. */
bool bt_cache_enter(struct bt_vcpu *vcpu, struct bt_code *code);
/* Room for a translation in the current segment, recycling the oldest one if need be. */
void bt_cache_reserve(struct bt_vcpu *vcpu, size_t bytes, size_t cold_bytes);
void bt_code_drop(struct bt_vcpu *vcpu, struct bt_code *code);
void bt_code_free_dying(struct bt_vcpu *vcpu);
/* Where to go on if the host's access at the offset in the code region faulted. 0: that is no such access. */
uint32_t bt_code_fault(const struct bt_vcpu *vcpu, uint32_t at);
void bt_cache_flush(struct bt_vcpu *vcpu);
void bt_link(struct bt_vcpu *vcpu, struct bt_edge *edge, struct bt_code *to);
void bt_forget_returns(struct bt_vcpu *vcpu);
void bt_forget_jumps(struct bt_vcpu *vcpu);
/* The next jump to CS:RIP finds the entry. */
void bt_learn_jump(struct bt_vcpu *vcpu, const struct bt_code *code);
/* A jump to CS:RIP was led to a translation that was dropped: the next one goes to this at once. */
void bt_mend_jump(struct bt_vcpu *vcpu, const struct bt_code *code);

/* stats.c */
void bt_count_callout(struct bt_vcpu *vcpu, const struct bt_site *site);
void bt_report(struct engine_vcpu *vcpu, engine_line_fn *line, void *opaque);

/* thunk.c */
void bt_make_thunks(struct bt_vcpu *vcpu);

/* perfmap.c: does nothing unless the map was opened. */
int bt_perf_map_open(struct error *err);
bool bt_perf_map_is_on(void);
void bt_perf_map_thunks(const struct bt_vcpu *vcpu);
void bt_perf_map_code(const struct bt_vcpu *vcpu, const struct bt_code *code);

/* translate.c */
/* page: the host address of the page the block begins in. NULL: it cannot be translated. */
struct bt_code *bt_translate(struct bt_vcpu *vcpu, struct block *block, const uint8_t *page);

/* run.c: what thunks call; they return the host address to go on at. */
const void *bt_on_callout(struct bt_vcpu *vcpu, struct bt_site *site);
/* page: the address of the one that an edge into another page leads to. */
const void *bt_on_link(struct bt_vcpu *vcpu, struct bt_edge *edge, uint64_t page);
const void *bt_on_vectors(struct bt_vcpu *vcpu, struct bt_code *code);
const void *bt_on_jump(struct bt_vcpu *vcpu, uint64_t rip, struct bt_site *site);
const void *bt_on_tlb_miss(struct bt_vcpu *vcpu, uint64_t lin,
                           uint64_t access); /* alignment - 1 << 16 | size in bytes << 1 | write */
const void *bt_on_resolve(struct bt_vcpu *vcpu, uint64_t rip);
enum soft_outcome bt_run_block(struct soft_vcpu *vcpu, struct block *block, struct exit *exit, uint64_t end);

static inline const void *bt_host(const struct bt_vcpu *vcpu, uint32_t offset)
{
    return vcpu->cache.rx + offset;
}

/* Where the jump table may have the linear address: two ways. */
static inline struct bt_jump *bt_jump_slot(struct bt_vcpu *vcpu, uint64_t lin)
{
    return &vcpu->frame.jump[((uint32_t)lin * BT_JUMP_HASH & BT_JUMP_MASK) / sizeof(struct bt_jump)];
}

/* Of CS:RIP, when the guest's state is in struct x86_cpu. */
static inline gva_t bt_linear_rip(const struct bt_vcpu *vcpu)
{
    const struct x86_cpu *cpu = &vcpu->soft.cpu;

    return (cpu->seg_base[SEG_CS] + cpu->rip) & cpu->lin_mask;
}

static inline struct bt_near *bt_near(struct bt_vcpu *vcpu)
{
    return (struct bt_near *)vcpu->soft.near;
}

/* Where translated code finds the soft TLB's current table. */
static inline void bt_set_table(struct bt_vcpu *vcpu)
{
    bt_near(vcpu)->tlb = vcpu->soft.tlb.current->entry;
    if (vcpu->gs)
        __asm__ volatile("wrgsbase %0" : : "r"(bt_near(vcpu)->tlb));
}

/* What translated code knows of the soft TLB. */
static inline void bt_take_view(struct bt_vcpu *vcpu)
{
    const struct x86_tlb *tlb = &vcpu->soft.tlb;
    struct bt_near *near = bt_near(vcpu);

    near->salt = tlb->context;
    near->tlb_mask = tlb->current->mask;
    if (near->tlb != tlb->current->entry)
        bt_set_table(vcpu);
    near->stack_tag = tlb->stack.tag;
    near->stack_host = tlb->stack.host;
}

#endif
