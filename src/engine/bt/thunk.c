/*
 * engine/bt/thunk.c: the host code that every translation uses: the ways from
 * the monitor into translated code and back.
 *
 * Translated code runs on the return stack; the monitor's functions on the stack
 * that run() was called on.
 */
#include "engine/bt/emit.h"

static const uint8_t callee_saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

static void emit_push_host(struct emit *e, unsigned reg)
{
    emit_rex(e, false, 0, 0, reg, false);
    emit8(e, 0x50 | (reg & 7));
}

static void emit_pop_host(struct emit *e, unsigned reg)
{
    emit_rex(e, false, 0, 0, reg, false);
    emit8(e, 0x58 | (reg & 7));
}

static void emit_spill(struct emit *e)
{
    for (unsigned g = 0; g < 16; g++)
        if (bt_host_of[g] != IN_FRAME)
            emit_store(e, H_FRAME, FRAME_GPR(g), bt_host_of[g]);
}

/* Onto the return stack, guest registers in place, and on at frame.next. */
static void emit_into(struct emit *e)
{
    emit_load(e, H_RSP, H_FRAME, FRAME_BT(sp));
    for (unsigned g = 0; g < 16; g++)
        if (bt_host_of[g] != IN_FRAME)
            emit_load(e, bt_host_of[g], H_FRAME, FRAME_GPR(g));
    emit_rm(e, false, 0xff, 4, H_FRAME, FRAME_BT(next));
}

static void emit_enter(struct emit *e)
{
    for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
        emit_push_host(e, callee_saved[i]);
    emit_imm(e, true, IMM_SUB, H_RSP, 8);
    emit_lea(e, true, H_FRAME, H_RDI, (int32_t)ORIGIN);
    emit_store(e, H_FRAME, FRAME_BT(host_sp), H_RSP);
    emit_into(e);
}

/* The guest's state is in struct x86_cpu already. */
static void emit_leave(struct emit *e)
{
    emit_load(e, H_RSP, H_FRAME, FRAME_BT(host_sp));
    emit_imm(e, true, IMM_ADD, H_RSP, 8);
    for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
        emit_pop_host(e, callee_saved[i]);
    emit8(e, 0xc3);
}

/* --- vector registers -------------------------------------------------------------------------- */

static bool host_has_avx(void)
{
    return __builtin_cpu_supports("avx");
}

static void emit_xmm(struct emit *e, unsigned opcode, unsigned x, int32_t disp) /* movups */
{
    emit_rex(e, false, x, 0, H_FRAME, false);
    emit8(e, 0x0f);
    emit8(e, opcode);
    emit_modrm_mem(e, x, H_FRAME, disp);
}

/* VEX.256.66.0F3A.W0 opcode /r ib */
static void emit_high(struct emit *e, unsigned opcode, unsigned x, unsigned vvvv, int32_t disp)
{
    emit8(e, 0xc4);
    emit8(e, (~x >> 3 & 1) << 7 | 1u << 6 | 0u << 5 | 3);
    emit8(e, (~vvvv & 15) << 3 | 1u << 2 | 1);
    emit8(e, opcode);
    emit_modrm_mem(e, x, H_FRAME, disp);
    emit8(e, 1);
}

static void emit_mxcsr(struct emit *e, unsigned n, int32_t disp) /* 2 LDMXCSR, 3 STMXCSR */
{
    emit_rm(e, false, 0x0fae, n, H_FRAME, disp);
}

static void emit_save_vectors(struct emit *e)
{
    uint32_t skip;

    emit8(e, 0x41); /* cmp byte [vectors], 0 */
    emit8(e, 0x80);
    emit_modrm_mem(e, 7, H_FRAME, FRAME_NEAR(vectors));
    emit8(e, 0);
    skip = emit_jump(e, CC_E);
    for (unsigned x = 0; x < 16; x++) {
        emit_xmm(e, 0x11, x, FRAME_CPU(fpu.xmm) + (int32_t)(16 * x));
        if (host_has_avx())
            emit_high(e, 0x19, x, 0, FRAME_CPU(fpu.ymm_high) + (int32_t)(16 * x)); /* vextractf128 */
    }
    if (host_has_avx())
        emit_bytes(e, "\xc5\xf8\x77", 3); /* vzeroupper */
    emit_mxcsr(e, 3, FRAME_CPU(fpu.mxcsr));
    emit_mxcsr(e, 2, FRAME_BT(host_mxcsr));
    emit8(e, 0x41); /* mov byte [vectors], 0 */
    emit8(e, 0xc6);
    emit_modrm_mem(e, 0, H_FRAME, FRAME_NEAR(vectors));
    emit8(e, BT_NO_VECTORS);
    emit_patch(e, skip, emit_here(e));
}

/* Then on at frame.resume. S1 is lost. */
static void emit_load_vectors(struct emit *e)
{
    for (unsigned x = 0; x < 16; x++) {
        emit_xmm(e, 0x10, x, FRAME_CPU(fpu.xmm) + (int32_t)(16 * x));
        if (host_has_avx())
            emit_high(e, 0x18, x, x, FRAME_CPU(fpu.ymm_high) + (int32_t)(16 * x)); /* vinsertf128 */
    }
    emit_mxcsr(e, 2, FRAME_CPU(fpu.mxcsr));
    emit_rm(e, false, 0x0fb6, H_S1, H_FRAME, FRAME_BT(level)); /* movzx */
    emit_rm(e, false, 0x88, H_S1, H_FRAME, FRAME_NEAR(vectors));
    emit_rm(e, false, 0xff, 4, H_FRAME, FRAME_BT(resume));
}

/* --- calls of the monitor ---------------------------------------------------------------------------- */

/* function(vcpu, first, second) returns where to go on. */
static uint32_t emit_monitor_call(struct emit *e, const void *function, unsigned first, unsigned second)
{
    uint32_t here = emit_here(e);

    emit_spill(e);
    emit_rm(e, false, 0x0fb6, H_RAX, H_FRAME, FRAME_NEAR(vectors)); /* movzx */
    emit_rm(e, false, 0x88, H_RAX, H_FRAME, FRAME_BT(level));
    emit_save_vectors(e);
    emit_store(e, H_FRAME, FRAME_BT(sp), H_RSP);
    emit_load(e, H_RSP, H_FRAME, FRAME_BT(host_sp));
    emit_lea(e, true, H_RDI, H_FRAME, -(int32_t)ORIGIN);
    emit_mov(e, H_RSI, first);
    emit_mov(e, H_RDX, second);
    emit_mov_imm64(e, H_RAX, (uint64_t)function);
    emit_rr(e, false, 0xff, 2, H_RAX); /* call rax */
    emit_store(e, H_FRAME, FRAME_BT(next), H_RAX);
    emit_into(e);
    return here;
}

/* What C functions may change, but for those that they preserve. */
static const uint8_t changed[] = {RAX, RCX, RDX, RSI, RDI, R8, RSP};

/* A leaf function (leaf.h), in S1, is called for the site in S0; then on at what it returns. */
static uint32_t emit_leaf(struct emit *e)
{
    uint32_t here = emit_here(e);

    for (unsigned i = 0; i < ARRAY_SIZE(changed); i++)
        emit_store(e, H_FRAME, FRAME_GPR(changed[i]), bt_host_of[changed[i]]);
    emit_store(e, H_FRAME, FRAME_BT(sp), H_RSP);
    emit_load(e, H_RSP, H_FRAME, FRAME_BT(host_sp));
    emit_lea(e, true, H_RDI, H_FRAME, -(int32_t)ORIGIN);
    emit_mov(e, H_RSI, H_S0);
    emit_rr(e, false, 0xff, 2, H_S1); /* call S1 */
    emit_store(e, H_FRAME, FRAME_BT(next), H_RAX);
    emit_load(e, H_RSP, H_FRAME, FRAME_BT(sp));
    for (unsigned i = 0; i < ARRAY_SIZE(changed); i++)
        emit_load(e, bt_host_of[changed[i]], H_FRAME, FRAME_GPR(changed[i]));
    emit_load(e, H_S0, H_FRAME, FRAME_NEAR(target));
    emit_load(e, H_S1, H_FRAME, FRAME_NEAR(slot));
    emit_rm(e, false, 0xff, 4, H_FRAME, FRAME_BT(next));
    return here;
}

/* S0 = linear address in the stack. Makes its page the stack's TLB entry if the soft TLB allows it to be written. CF:
 * it does not, or that page is the stack's already. */
static uint32_t emit_stack_miss(struct emit *e, const struct bt_thunks *thunk)
{
    uint32_t here = emit_here(e), fail[2];

    emit_tlb_slot(e);
    emit_tlb(e, OP_SUB, H_S0, offsetof(struct x86_tlb_entry, write));
    emit_imm(e, true, IMM_CMP, H_S0, (int32_t)PAGE_SIZE - 1);
    fail[0] = emit_jump(e, CC_A);
    emit_tlb(e, OP_MOV, H_S0, offsetof(struct x86_tlb_entry, write));
    emit_rm(e, true, OP_CMP, H_S0, H_FRAME, FRAME_NEAR(stack_tag));
    fail[1] = emit_jump(e, CC_E);
    emit_store(e, H_FRAME, FRAME_NEAR(stack_tag), H_S0);
    emit_store(e, H_FRAME, FRAME_TLB(stack.tag), H_S0);
    emit_tlb(e, OP_MOV, H_S0, offsetof(struct x86_tlb_entry, host));
    emit_store(e, H_FRAME, FRAME_NEAR(stack_host), H_S0);
    emit_store(e, H_FRAME, FRAME_TLB(stack.host), H_S0);
    emit_jump_to(e, CC_ALWAYS, thunk->yes);
    emit_patch(e, fail[0], thunk->no);
    emit_patch(e, fail[1], thunk->no);
    return here;
}

void bt_make_thunks(struct bt_vcpu *vcpu)
{
    struct emit e = {
        .p = vcpu->cache.rw, .base = vcpu->cache.rw, .end = vcpu->cache.rw + vcpu->cache.segment_size, .gs = vcpu->gs};
    struct bt_thunks *thunk = &vcpu->thunk;

    thunk->enter = emit_here(&e);
    emit_enter(&e);
    thunk->leave = emit_here(&e);
    emit_leave(&e);
    thunk->load_vectors = emit_here(&e);
    emit_load_vectors(&e);
    thunk->callout = emit_monitor_call(&e, (const void *)bt_on_callout, H_S0, H_S1);
    thunk->leaf = emit_leaf(&e);
    thunk->link = emit_monitor_call(&e, (const void *)bt_on_link, H_S1, H_S0);
    thunk->resolve = emit_monitor_call(&e, (const void *)bt_on_resolve, H_S0, H_S1);
    thunk->need_vectors = emit_monitor_call(&e, (const void *)bt_on_vectors, H_S0, H_S1);
    thunk->yes = emit_here(&e);
    emit_bytes(&e, "\xf8\xc3", 2); /* clc; ret */
    thunk->no = emit_here(&e);
    emit_bytes(&e, "\xf9\xc3", 2); /* stc; ret */
    thunk->stack_miss = emit_stack_miss(&e, thunk);
    thunk->tlb_miss = emit_monitor_call(&e, (const void *)bt_on_tlb_miss, H_S0, H_S1);
    thunk->jump_miss = emit_monitor_call(&e, (const void *)bt_on_jump, H_S0, H_S1);
    thunk->end = (uint32_t)ALIGN_UP(emit_here(&e), 64);
}
