/*
 * engine/bt/trace.c: `--trace bt`: each block as it was translated. On the left
 * the guest's instructions, on the right the host's made from them; then the
 * parts off the straight path. Nothing here runs unless that trace is on.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "engine/bt/translate_internal.h"

#define MAX_MARKS  640
#define LEFT_WIDTH 56

struct bt_marks {
    unsigned count;
    struct mark {
        uint32_t here; /* offset in the code region */
        uint32_t what;
    } mark[MAX_MARKS];
};

struct bt_marks *bt_marks_new(void)
{
    return trace_on(TRACE_BT) ? calloc(1, sizeof(struct bt_marks)) : NULL;
}

void bt_mark_here(struct translation *t, unsigned what)
{
    struct bt_marks *marks = t->marks;

    if (marks->count && marks->mark[marks->count - 1].what == what)
        return;
    if (marks->count < MAX_MARKS)
        marks->mark[marks->count++] = (struct mark){.here = emit_here(&t->e), .what = what};
}

/* Of an offset in the page. The guest is at the block's begin. */
static uint64_t guest_address(const struct translation *t, int64_t offset)
{
    const uint64_t rip = t->vcpu->soft.cpu.rip + (uint64_t)(offset - t->code->page_offset);

    return t->mode == MODE_LONG64 ? rip : (uint32_t)rip;
}

/* --- names ------------------------------------------------------------------------------------------------ */

/* What translated code reaches from FRAME, by displacement. */
#define FRAME_SOFT(field) FRAME_VCPU(soft.field)
static const struct {
    int32_t disp;
    uint32_t size;
    const char *name;
} fields[] = {
#define FIELD(macro, place, field)                                                                                     \
    {                                                                                                                  \
        macro(field), sizeof(((struct bt_vcpu *)0)->place.field), #field                                               \
    }
#define NEAR(field)                                                                                                    \
    {                                                                                                                  \
        FRAME_NEAR(field), sizeof(((struct bt_near *)0)->field), #field                                                \
    }
    FIELD(FRAME_CPU, soft.cpu, rip),
    FIELD(FRAME_CPU, soft.cpu, rflags),
    FIELD(FRAME_CPU, soft.cpu, events),
    FIELD(FRAME_CPU, soft.cpu, seg_base),
    FIELD(FRAME_CPU, soft.cpu, seg_room),
    FIELD(FRAME_CPU, soft.cpu, code_room),
    NEAR(flags),
    NEAR(vectors),
    NEAR(limit),
    NEAR(salt),
    FIELD(FRAME_CPU, soft.cpu, cpl),
    FIELD(FRAME_CPU, soft.cpu, msr),
    FIELD(FRAME_CPU, soft.cpu, seg),
    FIELD(FRAME_SOFT, soft, wanted),
    FIELD(FRAME_CODE, soft.code, place),
    NEAR(target),
    FIELD(FRAME_BT, frame, budget),
    FIELD(FRAME_BT, frame, window),
    NEAR(tlb),
    FIELD(FRAME_TLB, soft.tlb, table),
    FIELD(FRAME_TLB, soft.tlb, fetch_mask),
    NEAR(stack_tag),
    NEAR(stack_host),
    NEAR(fits),
    NEAR(tlb_mask),
    {FRAME_VCPU(region), sizeof(((struct bt_vcpu *)0)->region), "region"},
#undef NEAR
#undef FIELD
};

static const char *const registers[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static void name_frame(int64_t disp, char *text, size_t size)
{
    if (disp >= FRAME_GPR(0) && disp < FRAME_GPR(16)) {
        snprintf(text, size, "guest %s", registers[(disp - FRAME_GPR(0)) / 8]);
        return;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        int64_t at = disp - fields[i].disp;

        if (at >= 0 && at < (int64_t)fields[i].size)
            snprintf(text, size, at ? "%s+%ld" : "%s", fields[i].name, at);
    }
}

/* S1 is an entry of the soft TLB. */
static void name_entry(int64_t disp, char *text, size_t size)
{
    static const char *const tags[] = {"tlb: read", "tlb: write", "tlb: fetch", "tlb: host"};
    if (disp >= 0 && disp < (int64_t)sizeof(struct x86_tlb_entry) && disp % 8 == 0)
        snprintf(text, size, "%s", tags[disp / 8]);
}

static void name_target(const struct translation *t, int64_t target, char *text, size_t size)
{
    const struct bt_thunks *thunk = &t->vcpu->thunk;

#define X(name)                                                                                                        \
    if (thunk->name == target)                                                                                         \
        snprintf(text, size, #name);
    BT_THUNKS(X)
#undef X
}

/* The pointers that translations carry. */
static void name_pointer(const struct translation *t, uint64_t value, char *text, size_t size)
{
    const struct bt_code *code = t->code;
    uint64_t site = value - (uint64_t)code->site, edge = value - (uint64_t)code->edge;

    if (site < code->sites * sizeof(*code->site))
        snprintf(text, size, "site: instructions %u-%u", code->site[site / sizeof(*code->site)].first + 1,
                 code->site[site / sizeof(*code->site)].last + 1);
    else if (edge < code->edges * sizeof(*code->edge))
        snprintf(text, size, "edge to %lx", guest_address(t, code->edge[edge / sizeof(*code->edge)].target));
}

static void explain(const struct translation *t, const struct x86_zydis *z, uint32_t at, char *text, size_t size)
{
    for (unsigned i = 0; i < z->insn.operand_count_visible; i++) {
        const ZydisDecodedOperand *o = &z->op[i];

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.base == ZYDIS_REGISTER_R15)
            name_frame(o->mem.disp.value, text, size);
        else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.base == ZYDIS_REGISTER_R11)
            name_entry(o->mem.disp.value, text, size);
        else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative)
            name_target(t, (int64_t)at + z->insn.length + o->imm.value.s, text, size);
        else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->size == 64)
            name_pointer(t, o->imm.value.u, text, size);
    }
}

/* --- lines -------------------------------------------------------------------------------------------------- */

static void title(const struct translation *t, const struct mark *mark, char *text, size_t size)
{
    const struct cold *cold;

    switch (mark->what) {
    case MARK_ENTRY:
        snprintf(text, size, "(entry)");
        return;
    case MARK_LOOP:
        snprintf(text, size, "(loop: rounds after the first)");
        return;
    case MARK_RUN:
        snprintf(text, size, "(how many rounds stay in their pages?)");
        return;
    case MARK_END:
        snprintf(text, size, "(on to what follows)");
        return;
    case MARK_CHECKED:
        snprintf(text, size, "(entry from other pages)");
        return;
    }
    cold = &t->cold[mark->what - MARK_COLD];
    switch (cold->kind) {
    case COLD_NONE:
        break;
    case COLD_SITE:
    case COLD_ACCESS:
        snprintf(text, size, "(off the fast path: instructions %u-%u)", t->code->site[cold->index].first + 1,
                 t->code->site[cold->index].last + 1);
        break;
    case COLD_STACK:
        snprintf(text, size, "(the stack is in another page)");
        break;
    case COLD_FAULT:
        snprintf(text, size, "(if instruction %u faults on the host)", t->code->site[cold->index].first + 1);
        break;
    case COLD_EDGE:
    case COLD_FAR:
        snprintf(text, size, "(to %lx, while not linked)", guest_address(t, t->code->edge[cold->index].target));
        break;
    case COLD_VECTORS:
        snprintf(text, size, "(vector registers are to be loaded)");
        break;
    case COLD_JUMP:
        snprintf(text, size, "(another address has the jump table's slot)");
        break;
    case COLD_STALE:
        snprintf(text, size, "(is it this page still?)");
        break;
    case COLD_BUDGET:
        snprintf(text, size, "(the budget is used up)");
        break;
    case COLD_WINDOW:
        snprintf(text, size, "(another page than in the last round)");
        break;
    case COLD_CROSSING:
        snprintf(text, size, "(the page it reaches into has changed)");
        break;
    case COLD_LOOP:
        snprintf(text, size, "(an event waits)");
        break;
    }
}

/* Host code from one mark to the next, its first line beside `left`. */
static void print_part(const struct translation *t, const char *left, uint32_t at, uint32_t end)
{
    if (at == end)
        TRACE(BT, "%s", left);
    for (const char *beside = left; at < end; beside = "") {
        char text[128], why[64] = "";
        struct x86_zydis z;

        if (!x86_zydis_decode(&z, MODE_LONG64, t->e.base + at, end - at)) {
            TRACE(BT, "%-*s %06x  (bad)", LEFT_WIDTH, beside, at);
            return;
        }
        x86_disassemble(text, sizeof(text), MODE_LONG64, t->e.base + at, z.insn.length, at);
        explain(t, &z, at, why, sizeof(why));
        if (*why)
            TRACE(BT, "%-*s %06x  %-44s ; %s", LEFT_WIDTH, beside, at, text, why);
        else
            TRACE(BT, "%-*s %06x  %s", LEFT_WIDTH, beside, at, text);
        at += z.insn.length;
    }
}

static void print_guest(const struct translation *t, unsigned i, char *left, size_t size)
{
    const struct bt_op *op = &t->op[i];
    const uint64_t rip = guest_address(t, t->code->offset[i]);
    char text[96] = "(undefined)";

    if (op->z.bytes)
        x86_disassemble(text, sizeof(text), t->mode, op->z.bytes, op->in->length, rip);
    snprintf(left, size, "%2u %016lx  %s", i + 1, rip, text);
}

void bt_trace_block(struct translation *t)
{
    struct bt_marks *marks = t->marks;
    const struct bt_code *code = t->code;

    TRACE(BT, "%016lx (guest-physical %lx), %s: %u instructions, %u bytes of guest code, %u of host code at %p%s",
          t->vcpu->soft.cpu.rip, block_gpa(t->code->block), t->mode == MODE_LONG64 ? "64-bit" : "32-bit", t->count,
          t->code->block->bytes, code->end - code->start + code->cold_end - code->cold_start,
          bt_host(t->vcpu, t->code->start), t->e.full ? "; it does not fit" : "");
    for (unsigned i = 0; i < marks->count && !t->e.full; i++) {
        const struct mark *mark = &marks->mark[i];
        const bool last = i + 1 == marks->count || (marks->mark[i + 1].what >= MARK_COLD && mark->what < MARK_COLD);
        const uint32_t end = mark->what < MARK_COLD ? code->end : code->cold_end;
        const uint32_t next = last ? end : marks->mark[i + 1].here;
        char left[160] = "";

        if (mark->what < t->count)
            print_guest(t, mark->what, left, sizeof(left));
        else if (mark->here == next)
            continue;
        else
            title(t, mark, left, sizeof(left));
        print_part(t, left, mark->here, next);
    }
    free(marks);
    t->marks = NULL;
}
