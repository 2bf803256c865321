/*
 * engine/bt/run.c: between translations: finds and makes them, and what they
 * call the monitor for.
 */
#include "engine/bt/shadow.h"

#include <string.h>

#include "base/log.h"
#include "x86/exec/flags.h"
#include "x86/intr.h"
#include "x86/mmu.h"
#include "x86/random.h"
#include "x86/zydis.h"

#define DR7_ENABLED 0xff

typedef void enter_fn(struct bt_vcpu *vcpu);

/* --- state -------------------------------------------------------------------------------------------- */

static uint64_t address_mask(const struct x86_cpu *cpu)
{
    return cpu->mode == MODE_LONG64 ? UINT64_MAX : UINT32_MAX;
}

/* Out of translated code, with the guest at rip. */
static void come_out(struct bt_vcpu *vcpu, uint64_t rip)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;

    cpu->rip = rip & address_mask(cpu);
    flags_set(cpu, bt_near(vcpu)->flags);
    vcpu->flags_in_host = false;
    if (vcpu->counting)
        cpu->counters.instructions = vcpu->end - (uint64_t)vcpu->frame.budget;
}

/* Back in, at a place in the page that begins `offset` before RIP. */
static void go_in(struct bt_vcpu *vcpu, unsigned offset)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;

    cpu->rip = (cpu->rip - offset) & address_mask(cpu);
    bt_near(vcpu)->flags = flags_get(cpu);
    bt_take_view(vcpu);
    vcpu->frame.budget = (int64_t)(vcpu->end - cpu->counters.instructions);
}

/* Loads vector registers as frame.level tells before it goes on. */
static const void *with_vectors(struct bt_vcpu *vcpu, const void *where)
{
    vcpu->frame.resume = (uint64_t)where;
    return bt_host(vcpu, vcpu->thunk.load_vectors);
}

static const void *leave(struct bt_vcpu *vcpu, enum soft_outcome outcome)
{
    vcpu->outcome = outcome;
    return bt_host(vcpu, vcpu->thunk.leave);
}

/* Does the present state let translated code run? */
static bool can_translate(const struct x86_cpu *cpu)
{
    if (cpu->mode == MODE_PROT32 || cpu->mode == MODE_COMPAT32)
        return cpu->stack_size == 4;
    return cpu->mode == MODE_LONG64;
}

/* Which vector instructions may run on the host now: what the guest has enabled, with exceptions masked. */
static enum bt_vectors vectors_allowed(const struct x86_cpu *cpu)
{
    const uint64_t avx = XCR0_SSE | XCR0_AVX;

    if ((cpu->cr0 & (CR0_EM | CR0_TS)) || !(cpu->cr4 & CR4_OSFXSR) || (cpu->fpu.mxcsr & 0x1f80) != 0x1f80)
        return BT_NO_VECTORS;
    return (cpu->cr4 & CR4_OSXSAVE) && (cpu->xcr0 & avx) == avx ? BT_AVX : BT_SSE;
}

/* --- finding translations -------------------------------------------------------------------------------- */

/* How often a block is interpreted before it is translated. What a program runs it mostly runs again soon; what a
 * kernel runs as it boots, mostly not. */
static unsigned runs_before(const struct x86_cpu *cpu)
{
    return MIN(cpu->cpl == 3 ? BT_HEAT_USER : BT_HEAT, BT_HEAT) - 1;
}

static struct bt_code *hot(struct bt_vcpu *vcpu, struct block *block)
{
    struct soft_vcpu *soft = &vcpu->soft;
    const struct x86_tlb_entry *e;

    if (block->translation)
        return block->translation;
    if (block->heat == UINT16_MAX || block->heat < runs_before(&soft->cpu))
        return NULL;
    block->heat = UINT16_MAX; /* if it cannot be translated: do not try again */
    e = x86_tlb_slot(soft->tlb.table, bt_linear_rip(vcpu));
    return bt_translate(vcpu, block, e->host);
}

/* Does run()'s budget suffice for the block? */
static bool has_room(const struct bt_vcpu *vcpu, const struct block *block)
{
    const uint64_t retired = vcpu->soft.cpu.counters.instructions;

    return !vcpu->counting || (retired < vcpu->end && vcpu->end - retired >= block->count);
}

/* The translation to go on with, the guest's state being in struct x86_cpu; NULL: the run loop has to look. */
static struct bt_code *find(struct bt_vcpu *vcpu)
{
    struct soft_vcpu *soft = &vcpu->soft;
    struct x86_cpu *cpu = &soft->cpu;
    enum x86_rc rc = X86_NEXT;
    struct block *block;

    if (soft_attention(soft) || cpu->halted || cpu->shutdown || soft->restart || soft->code.dropped)
        return NULL;
    if (unlikely(soft->vm->shadow_soon))
        bt_shadow_consider(vcpu);
    block = code_find(soft, &rc); /* other vCPUs may ask for our pages meanwhile */
    if (soft->tlb.shadowed && x86_shadow_is_stale(&soft->tlb) && !bt_shadow_refresh(vcpu))
        return NULL;
    if (!block || soft_stepping(soft, block) || !can_translate(cpu))
        return NULL;
    if (!has_room(vcpu, block))
        return NULL;
    return hot(vcpu, block);
}

static const void *resolve(struct bt_vcpu *vcpu)
{
    struct bt_code *code = find(vcpu);

    if (!code)
        return leave(vcpu, SOFT_GO_ON);
    bt_mend_jump(vcpu, code);
    go_in(vcpu, code->page_offset);
    return bt_host(vcpu, code->entry_m);
}

const void *bt_on_resolve(struct bt_vcpu *vcpu, uint64_t rip)
{
    vcpu->soft.cpu.counters.resolves++;
    come_out(vcpu, rip);
    return resolve(vcpu);
}

/* An A or D bit lay in decoded code, perhaps that which asks: the return stack was emptied, but for the address that
 * the thunk returns to. The translation is still there, and leaves by its call-out. */
static bool keep_way_back(struct bt_vcpu *vcpu, uint64_t back)
{
    uint64_t *top = (uint64_t *)vcpu->frame.base - 1;

    *top = back;
    vcpu->frame.sp = (uint64_t)top;
    return false;
}

/* RIP and flags stay as translated code has them. */
const void *bt_on_tlb_miss(struct bt_vcpu *vcpu, uint64_t lin, uint64_t access)
{
    const unsigned size = (uint16_t)access >> 1, kind = access & 1 ? ACCESS_WRITE : ACCESS_READ;
    const uint64_t back = *(const uint64_t *)vcpu->frame.sp;
    /* What is not aligned faults before its page is looked at. */
    bool loaded = !(lin & access >> 16) && x86_tlb_load(&vcpu->soft.cpu, lin, size, kind);
    const void *where;

    bt_near(vcpu)->tlb_mask = vcpu->soft.tlb.current->mask;
    if (vcpu->soft.code.dropped)
        loaded = keep_way_back(vcpu, back);
    where = bt_host(vcpu, loaded ? vcpu->thunk.yes : vcpu->thunk.no);
    return vcpu->frame.level ? with_vectors(vcpu, where) : where;
}

const void *bt_on_link(struct bt_vcpu *vcpu, struct bt_edge *edge, uint64_t page)
{
    const unsigned offset = (unsigned)edge->target & (unsigned)~PAGE_MASK;
    const uint64_t recycled = vcpu->cache.recycled;
    struct bt_code *from = edge->from, *code;

    vcpu->soft.cpu.counters.links++;
    come_out(vcpu, edge->cross ? page + offset : vcpu->soft.cpu.rip + (uint64_t)edge->target);
    vcpu->flags_in_host = edge->flags_h && !edge->flags_m;
    if (edge->sti && soft_attention(&vcpu->soft))
        vcpu->soft.cpu.int_shadow = SHADOW_STI;
    code = find(vcpu);
    if (!code)
        return leave(vcpu, SOFT_GO_ON);
    if (vcpu->cache.recycled == recycled && !from->dropped && !edge->to &&
        block_shadowed(from->block) == block_shadowed(code->block) &&
        (edge->cross || ((block_gpa(from->block) ^ block_gpa(code->block)) & PAGE_MASK) == 0))
        bt_link(vcpu, edge, code);
    go_in(vcpu, code->page_offset);
    return bt_host(vcpu, code->entry_m);
}

/* --- instructions by their semantics ------------------------------------------------------------------------- */

/* After an instruction that ends a block but did not jump: may translated code go on behind it? */
static bool quiet(const struct bt_vcpu *vcpu, uint64_t context)
{
    const struct soft_vcpu *soft = &vcpu->soft;
    const struct x86_cpu *cpu = &soft->cpu;

    return !soft_attention(soft) && !cpu->halted && !cpu->shutdown && !cpu->int_shadow && !cpu->code_changed &&
           !(cpu->rflags & (FLAG_TF | FLAG_RF)) && !(cpu->dr[7] & DR7_ENABLED) && soft->tlb.context == context &&
           can_translate(cpu) && !trace_on(TRACE_EXEC);
}

static const void *resume(struct bt_vcpu *vcpu, const struct bt_site *site)
{
    const void *where = bt_host(vcpu, site->resume);

    go_in(vcpu, site->code->offset[site->last + 1]);
    if (!site->code->vectors)
        return where;
    vcpu->frame.level = vectors_allowed(&vcpu->soft.cpu);
    return with_vectors(vcpu, where);
}

/* A near branch was executed by its semantics. The return stack and the jump table are told. */
static const void *branched(struct bt_vcpu *vcpu, const struct x86_insn *in)
{
    struct bt_frame *frame = &vcpu->frame;
    const uint64_t *top = (const uint64_t *)frame->sp;
    struct bt_code *code;

    if (in->mnemonic == ZYDIS_MNEMONIC_RET && top[1] == bt_linear_rip(vcpu) + vcpu->soft.tlb.context)
        frame->sp += 2 * sizeof(*top);
    if (frame->sp < bt_near(vcpu)->limit)
        bt_forget_returns(vcpu);
    code = find(vcpu);
    if (!code)
        return leave(vcpu, SOFT_GO_ON);
    if (in->mnemonic == ZYDIS_MNEMONIC_RET || in->mnemonic == ZYDIS_MNEMONIC_JMP || in->mnemonic == ZYDIS_MNEMONIC_CALL)
        bt_learn_jump(vcpu, code);
    go_in(vcpu, code->page_offset);
    return bt_host(vcpu, code->entry_m);
}

/* A group of accesses has so often been in two pages that the block is to be translated anew, with code for that. */
static bool split(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct block *block = site->code->block;

    if (!site->group || (block->split >> site->first & 1) || ++site->taken < BT_SPLIT)
        return false;
    block->split |= 1u << site->first;
    bt_code_drop(vcpu, site->code);
    block->heat = BT_HEAT - 1;
    return true;
}

/* The host let an access of translated code fault, and its instruction was executed. Code whose memory cannot be
 * mapped, or not for that, is better off with checks. */
static bool took_fault(struct bt_vcpu *vcpu, struct bt_site *site, enum x86_rc rc)
{
    struct block *block = site->code->block;
    const bool mapped = bt_shadow_map(vcpu, rc == X86_NEXT || rc == X86_JUMP);

    if (mapped || block->checked || ++site->taken < BT_SPLIT)
        return false;
    block->checked = true;
    bt_code_drop(vcpu, site->code);
    block->heat = BT_HEAT - 1;
    return true;
}

const void *bt_on_callout(struct bt_vcpu *vcpu, struct bt_site *site)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;
    const struct bt_code *code = site->code;
    const unsigned count = code->block->count;
    const uint64_t context = vcpu->soft.tlb.context;
    const struct x86_insn *in = NULL;
    enum x86_rc rc = X86_NEXT;
    bool again = false;
    unsigned i;

    bt_count_callout(vcpu, site);
    vcpu->frame.budget += count - site->first; /* not executed yet */
    come_out(vcpu, cpu->rip + code->offset[site->first]);
    cpu->code_changed = vcpu->soft.code.dropped; /* bt_on_tlb_miss() */
    for (i = site->first; i <= site->last; i++) {
        in = &code->block->insn[i];
        rc = in->exec(cpu, in);
        if (rc != X86_NEXT)
            break;
        cpu->rip += in->length;
        cpu->counters.instructions++;
        if (cpu->code_changed)
            break;
    }
    cpu->counters.instructions += rc == X86_JUMP;
    if (unlikely(bt_shadow_faulted(vcpu)))
        again = took_fault(vcpu, site, rc);
    if (rc == X86_JUMP) {
        split(vcpu, site);
        return branched(vcpu, in);
    }
    if (rc == X86_AGAIN)
        return resolve(vcpu);
    if (rc != X86_NEXT) {
        enum soft_outcome outcome = soft_leave(&vcpu->soft, vcpu->exit, rc);

        return outcome == SOFT_LEAVE ? leave(vcpu, outcome) : resolve(vcpu);
    }
    if (site->end && in->mnemonic == ZYDIS_MNEMONIC_WRMSR)
        vcpu->soft.clock_countdown = 1; /* perhaps a timer */
    if (cpu->code_changed || (site->end && vcpu->soft.clock_countdown == 1))
        return leave(vcpu, SOFT_GO_ON);
    if (site->end && !quiet(vcpu, context))
        return resolve(vcpu);
    if (vectors_allowed(cpu) < code->vectors) /* LDMXCSR, FXRSTOR: exceptions are not masked any more */
        return leave(vcpu, SOFT_GO_ON);
    if (again || split(vcpu, site))
        return resolve(vcpu);
    if (!site->end)
        cpu->counters.instructions += count - 1 - site->last; /* the rest is counted as it was at the block's begin */
    return resume(vcpu, site);
}

/* An indirect branch to what the jump table does not have. Calls have their return address still to push, and what is
 * no address has to fault at the branch: that is for the semantics. */
const void *bt_on_jump(struct bt_vcpu *vcpu, uint64_t rip, struct bt_site *site)
{
    const struct x86_insn *in = &site->code->block->insn[site->last];
    struct x86_cpu *cpu = &vcpu->soft.cpu;
    struct bt_code *code;

    if (in->mnemonic == ZYDIS_MNEMONIC_CALL || !x86_canonical(rip))
        return bt_on_callout(vcpu, site);
    cpu->counters.resolves++;
    if (in->mnemonic == ZYDIS_MNEMONIC_RET)
        cpu->gpr[RSP] = (cpu->gpr[RSP] + in->opsize + (in->shape == SHAPE_I ? in->imm : 0)) & address_mask(cpu);
    come_out(vcpu, rip);
    code = find(vcpu);
    if (!code)
        return leave(vcpu, SOFT_GO_ON);
    bt_learn_jump(vcpu, code);
    go_in(vcpu, code->page_offset);
    return bt_host(vcpu, code->entry_m);
}

const void *bt_on_vectors(struct bt_vcpu *vcpu, struct bt_code *code)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;
    struct block *block = code->block;

    vcpu->frame.level = vectors_allowed(cpu);
    if (vcpu->frame.level >= code->vectors) {
        return with_vectors(vcpu, bt_host(vcpu, code->entry_m));
    }
    come_out(vcpu, cpu->rip + code->page_offset);
    if (!has_room(vcpu, block))
        return leave(vcpu, SOFT_GO_ON);
    if (soft_run_block(&vcpu->soft, block, vcpu->exit, vcpu->end) == SOFT_LEAVE)
        return leave(vcpu, SOFT_LEAVE);
    return resolve(vcpu);
}

/* --- the run loop's part ----------------------------------------------------------------------------------------- */

enum soft_outcome bt_run_block(struct soft_vcpu *soft, struct block *block, struct exit *exit, uint64_t end)
{
    struct bt_vcpu *vcpu = (struct bt_vcpu *)soft;
    struct bt_code *code;

    vcpu->exit = exit;
    vcpu->end = end;
    bt_code_free_dying(vcpu);
    if (unlikely(end != UINT64_MAX && !vcpu->counting)) {
        vcpu->counting = true;
        bt_cache_flush(vcpu);
    }
    code = !soft->code.dropped && can_translate(&soft->cpu) && has_room(vcpu, block) ? hot(vcpu, block) : NULL;
    if (!code) {
        block->heat += block->heat < BT_HEAT;
        return soft_run_block(soft, block, exit, end);
    }
    soft->cpu.counters.translated_runs++;
    if (soft->tlb.shadowed && x86_shadow_is_stale(&soft->tlb) && !bt_shadow_refresh(vcpu))
        return SOFT_GO_ON;
    bt_set_table(vcpu); /* by this thread */
    go_in(vcpu, code->page_offset);
    vcpu->frame.next = (uint64_t)bt_host(vcpu, code->entry_m);
    vcpu->outcome = SOFT_GO_ON;
    bt_shadow_enter(vcpu);
    ((enter_fn *)bt_host(vcpu, vcpu->thunk.enter))(vcpu);
    bt_shadow_leave();
    bt_shadow_consider(vcpu);
    return vcpu->outcome;
}
