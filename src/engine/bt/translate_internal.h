/*
 * engine/bt/translate_internal.h: the translation of one block in progress.
 */
#ifndef ENGINE_BT_TRANSLATE_INTERNAL_H
#define ENGINE_BT_TRANSLATE_INTERNAL_H

#include "engine/bt/emit.h"
#include "engine/bt/op.h"

#define MAX_COLD 256

/* How to compute the flags anew from registers that still hold what the last instruction to write them worked on or
 * left: so that flags which nothing but a fault's frame would show need not be saved before a check. */
struct recipe {
    enum { RECIPE_NONE, RECIPE_CMP, RECIPE_TEST, RECIPE_ADD, RECIPE_SUB } kind;
    uint8_t a, b; /* guest registers; b: NO_REG if it is imm */
    bool wide;    /* 64 bits, else 32 */
    int32_t imm;
};
#define NO_REG      X86_REG_ZERO
#define BASE_TARGET (X86_REG_ZERO + 1) /* the base of an access: near.target */
#define SEG_FLAT    6                  /* the segment of an access: base 0, everything allowed */

/* An access to memory: its place from a base, and what it may share a check with. Registers by number; X86_REG_ZERO:
 * none. */
struct access {
    unsigned base, index, scale, seg, addrsize;
    int64_t disp;
    unsigned size; /* bytes */
    bool write, maybe;
};

/* A run of instructions whose memory accesses share one check. */
struct group {
    struct access leader;
    unsigned first, last;
    int64_t low, high; /* [low, high) from the common base */
    bool write, maybe; /* maybe: one of them may not be made at all */
    uint8_t align;
    int32_t delta[BLOCK_MAX_INSNS]; /* by instruction - first: of its access from the base at the group's begin */
};

/* Where the guest's status flags are. */
struct flags_place {
    bool h, m;
    struct recipe recipe;
};

/* Code off the straight path, emitted after it. */
struct cold {
    enum {
        COLD_NONE,
        COLD_SITE,
        COLD_ACCESS,
        COLD_STACK,
        COLD_EDGE,
        COLD_VECTORS,
        COLD_BUDGET,
        COLD_LOOP,
        COLD_WINDOW,
        COLD_CROSSING,
        COLD_JUMP,
        COLD_STALE,
        COLD_FAR,
        COLD_FAULT
    } kind;
    uint32_t patch[6]; /* jumps that lead here */
    unsigned patches;
    uint32_t refused; /* a jump that leads to the semantics at once: the segment does not allow the access */
    uint32_t after;   /* what follows the instructions that a site executes */
    uint32_t back;    /* COLD_STACK: where the check begins; COLD_JUMP: what follows the lookup */
    int32_t low;      /* COLD_STACK: the access begins at RSP + low */
    /* COLD_STACK, COLD_ACCESS: if the group lies in two pages its instructions follow once more, each with a check of
     * its own; then on at `after`, or `last` if its last one ends the block. Flags: at the group's begin, and there. */
    bool split;
    uint32_t last;
    struct flags_place begin, rejoin;
    /* COLD_FAULT: begin: where the flags are as it faults; after: 0 if what is executed jumps */
    unsigned index;       /* of the site, the edge, or (COLD_WINDOW) the cold site */
    uint32_t here;        /* where it was emitted */
    struct group group;   /* COLD_WINDOW: what is to be checked in full */
    struct recipe recipe; /* of the flags, if they are neither in the frame nor in the host */
    bool flags_h;         /* what follows wants the flags in the host's RFLAGS; COLD_EDGE: they are only there */
    const void *page;     /* COLD_STALE: the host address of the page that the block was translated from */
    uint16_t limit_site;  /* COLD_FAR: 1 + the site of a jump whose target may be outside CS; 0: it is not */
};

struct translation {
    struct bt_vcpu *vcpu;
    struct bt_code *code;
    struct emit e;
    struct bt_op *op;
    unsigned count;
    enum x86_mode mode;
    unsigned place;        /* code_place() */
    unsigned segmented;    /* of struct x86_cpu, when this runs */
    bool shadow;           /* the guest's pages are mapped at the host: direct.c */
    bool flags_h, flags_m; /* where the guest's status flags are; neither: they are dead, or `recipe` tells */
    struct recipe recipe;
    unsigned at;   /* the instruction that is being translated */
    uint32_t loop; /* the block jumps to its own begin: where the second copy of it begins; 0: no such */
    bool in_loop;
    unsigned loop_last, loop_jumps; /* its last jump to the begin; how many there are */
    struct {                        /* what follows that jump, in the first copy */
        uint32_t here;
        bool flags_h, flags_m;
    } rejoin;
    uint32_t loop_patch[BLOCK_MAX_CONDITIONALS + 1], loop_again;
    unsigned loop_patches;
    enum entry_kind { ENTRY_NONE, ENTRY_ANY, ENTRY_FRAME, ENTRY_HOST } loop_kind;
    struct recipe loop_recipe;
    uint8_t
        window[BLOCK_MAX_INSNS]; /* by a group's first instruction: 1 + the window that the loop has for it; 0: none */
    unsigned windows;
    bool roams;     /* some of the loop's accesses have none: they lead anywhere */
    struct bt_run { /* of a window: its access stays in the page for a known number of rounds */
        bool on, base_stays;
        struct group group;
        struct access first; /* of the next round: the leader; limits.c: with the counter for what will be its copy */
        int64_t step, ahead; /* bytes its address moves in a round, and of that before it is made; limits.c: or 1 */
        uint8_t shift;       /* limits.c: of the counter in its address */
        uint8_t hold;        /* the scratch register that holds its frame.delta; 0: none */
        bool late;           /* limits.c: the counter moves once more before it is made */
    } runs[BT_WINDOWS];
    struct bt_limit {           /* a run that ends when the counter is above a limit */
        unsigned counter, step; /* guest registers; step: NO_REG if it is imm */
        int32_t imm;
        bool wide;          /* 64 bits, else 32 */
        unsigned moves, at; /* the instruction that moves the counter; the one before which it is looked at */
        uint32_t back;      /* where that is, in the copy with checks */
    } limit;
    bool has_limit;
    unsigned counter; /* the host register that counts a run's rounds, and by how much a round moves it */
    int8_t counter_step;
    bool has_runs, all_run;                           /* the loop has rounds without checks; and no accesses but such */
    uint32_t run_fail[3 * BT_WINDOWS + 3], run_enter; /* for each window: page, alignment, step */
    unsigned run_fails;
    bool in_run;       /* such rounds are being translated */
    uint32_t run;      /* where its rounds begin */
    struct cold *cold; /* MAX_COLD */
    unsigned colds;
    struct bt_marks *marks; /* for --trace bt, else NULL */
};

/* Wants the flags in the frame, or in the host's RFLAGS. */
void bt_want_flags_m(struct translation *t);
void bt_want_flags_h(struct translation *t);
/* Before a check, which loses them: leaves them in the frame, or recoverable. */
void bt_settle_flags(struct translation *t);

/* An instruction wants them in the host's RFLAGS, if it reads them, or leaves some as they are. */
void bt_flags_before(struct translation *t, const struct bt_op *op);

/* translate.c */
/* An instruction whose access, if it has one, has been checked: it is at m. */
void bt_emit_at(struct translation *t, unsigned i, const struct mem_operand *m);
enum entry_kind bt_entry_kind(const struct translation *t);
/* Translates the instruction i, and others it is grouped with. Returns the next one's number. */
unsigned bt_emit_op(struct translation *t, unsigned i);

/* branch.c. m: where the access is, which has been checked; flags in the frame. */
void bt_emit_edge(struct translation *t, unsigned cc, int64_t target, unsigned from);
void bt_emit_page_of(struct translation *t, const struct bt_edge *edge);
void bt_emit_event_check(struct translation *t, struct cold *stub);
void bt_emit_jmp(struct translation *t, unsigned i);
void bt_emit_jcc(struct translation *t, unsigned i);
void bt_emit_call(struct translation *t, unsigned i, const struct mem_operand *m);
void bt_emit_ret(struct translation *t, unsigned i, const struct mem_operand *m);
void bt_emit_jmp_indirect(struct translation *t, unsigned i);
void bt_emit_call_indirect(struct translation *t, unsigned i);

/* loop.c */
bool bt_closes_loop(const struct bt_op *op, unsigned offset);
void bt_look_for_loop(struct translation *t);
bool bt_is_loop(const struct translation *t, int64_t target);
void bt_emit_loop_jump(struct translation *t, unsigned cc);
void bt_emit_run_entry(struct translation *t);
void bt_emit_loop(struct translation *t);
void bt_emit_runs(struct translation *t);
void bt_emit_limited_run(struct translation *t);

/* flags.c */
void bt_note_flags(struct translation *t, const struct bt_op *op);
bool bt_overwrites_flags(const struct bt_op *op);
/* Will flags that are current before instruction i be overwritten before anything reads them, and can the recipe give
 * them to every check on the way? */
bool bt_flags_are_dead(const struct translation *t, unsigned i, const struct recipe *recipe);
void bt_emit_recipe(struct emit *e, const struct recipe *recipe);

struct cold *bt_cold(struct translation *t, int kind, unsigned index);
void bt_cold_jump(struct translation *t, struct cold *cold, unsigned cc);
struct bt_site *bt_new_site(struct translation *t, unsigned first, unsigned last, unsigned *index);

static inline bool bt_is_wide(const struct translation *t)
{
    return t->mode == MODE_LONG64;
}

static inline unsigned bt_word(const struct translation *t)
{
    return bt_is_wide(t) ? 8 : 4;
}

static inline bool bt_is_segmented(const struct translation *t, unsigned seg)
{
    return t->segmented >> seg & 1;
}

/* Where code has a base: op (32 bits) of it and a register that holds an address in CS, or a linear one. */
static inline void bt_emit_code_base(struct translation *t, unsigned opcode, unsigned reg)
{
    if (bt_is_segmented(t, SEG_CS))
        emit_rm(&t->e, false, opcode, reg, H_FRAME, FRAME_CPU(seg_base) + 8 * SEG_CS);
}

/* memory.c. Every access of the guest to memory is checked by what bt_emit_check() emits. */
bool bt_is_access(const struct bt_op *op);
void bt_find_group(const struct translation *t, unsigned first, struct group *group);
/* The memory operand of instruction i alone; the word that it pushes alone. */
void bt_find_operand(const struct translation *t, unsigned i, struct group *group);
void bt_find_push(const struct translation *t, unsigned i, struct group *group);
/* S0 = host address of the group's lowest byte; what does not pass goes to the site. Flags: then in the frame only. */
struct cold *bt_emit_check(struct translation *t, const struct group *group, unsigned site);
/* base + index << scale + disp into `to` at the address size. S1 is lost, and S0 if two are in the frame. */
void bt_emit_sum(struct translation *t, const struct access *a, unsigned to, int64_t disp);
void bt_emit_cold(struct translation *t);
bool bt_may_split(const struct translation *t, const struct group *group);
/* Once more the instructions of a group, without one check for all of them. */
void bt_emit_split(struct translation *t, const struct cold *cold);
/* A check through the soft TLB; the access is that of instruction i, and what does not pass goes to the site. */
struct cold *bt_emit_single_check(struct translation *t, unsigned i, unsigned site);

/* By how much the instruction moves RSP, if that is known. */
bool bt_stack_move(const struct translation *t, const struct bt_op *op, int64_t *move);

/* direct.c: bt_emit_check() and a group's instructions where the host's own page tables check. */
struct cold *bt_emit_direct_check(struct translation *t, const struct group *group, unsigned site);
unsigned bt_emit_direct(struct translation *t, const struct group *group); /* the next instruction's number */
void bt_emit_fault(struct translation *t, const struct cold *cold);

void bt_emit_empty_windows(struct translation *t);
void bt_find_windows(struct translation *t); /* which accesses of the loop have one */
/* Does all of the group lie, aligned as it must be, in the page that S0 is to be an offset in? Else a cold jump. */
void bt_emit_page_test(struct translation *t, const struct group *group, struct cold *cold);
size_t bt_tlb_tag(const struct group *group); /* offset in a soft-TLB entry of the tag that lets it pass */

/* runs.c: a loop's rounds without checks. */
bool bt_find_runs(struct translation *t);                         /* are there any? Once the loop's windows are known */
void bt_emit_run_begin(struct translation *t);                    /* how many rounds? flags are lost */
void bt_run_fails(struct translation *t, uint32_t patch);         /* a jump to where to go then */
void bt_end_run_begin(struct translation *t, uint32_t otherwise); /* where to go if there can be no run now */
void bt_emit_run_round(struct translation *t); /* goes to t->loop if there were enough; flags are lost */
/* The group's accesses need no check in the present run: m is where their common base is. Else false. */
bool bt_emit_unchecked(struct translation *t, const struct group *group, struct mem_operand *m);
/* Which scratch registers hold something during a run; just before its first round: what. */
void bt_choose_held(struct translation *t);
void bt_emit_hold(struct translation *t);
/* Does no instruction of the loop write the register? */
bool bt_stays(const struct translation *t, unsigned reg);
bool bt_base_stays(const struct translation *t, unsigned reg); /* or RIP: it is part of frame.delta */
/* Can the accesses of this group, the one that begins with the instruction, do without checks at all? Finds it. */
bool bt_may_run(const struct translation *t, unsigned first, struct bt_run *run);
/* Of an access at offset S0 of its page: S0 = how much longer it stays there. */
typedef void bt_room_fn(struct translation *t, const struct bt_run *run);
/* For each access that is to go without checks: its page, and from there frame.delta; the least room of those that move
 * goes to frame.rounds. What is not found jumps to where bt_end_run_begin() says. */
void bt_emit_find_pages(struct translation *t, bt_room_fn *emit_room);

/* limits.c: such rounds up to a register's limit. */
bool bt_find_limit(struct translation *t);
void bt_emit_limit(struct translation *t, unsigned i); /* between the rounds' instructions, where limit.at says */

/* system.c: privileged work that stays in translated code. */
void bt_emit_pushf(struct translation *t, const struct mem_operand *m);
void bt_emit_cli(struct translation *t, unsigned i);
void bt_emit_sti(struct translation *t, unsigned i, bool same_page);
void bt_emit_swapgs(struct translation *t, unsigned i);
void bt_emit_read_segment(struct translation *t, unsigned i);
void bt_emit_read_control(struct translation *t, unsigned i);
void bt_emit_leaf(struct translation *t, unsigned i);

/* rewrite.c. The instruction itself, with this memory operand if it has one. If it names registers that live in the
 * frame, S1 (without memory operand S0 too) is lost. */
void bt_emit_identity(struct emit *e, const struct bt_op *op, const struct mem_operand *m);

/* trace.c. What the host code from here on is made for: an instruction (its number), or one of these. */
enum { MARK_ENTRY = 0x100, MARK_LOOP, MARK_RUN, MARK_END, MARK_CHECKED, MARK_COLD /* + number of the cold part */ };
struct bt_marks *bt_marks_new(void); /* NULL: no trace */
void bt_mark_here(struct translation *t, unsigned what);
void bt_trace_block(struct translation *t); /* frees t->marks */

static inline void bt_mark(struct translation *t, unsigned what)
{
    if (unlikely(t->marks != NULL))
        bt_mark_here(t, what);
}

#endif
