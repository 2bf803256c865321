/*
 * engine/kvm/state.c: a vCPU's state between KVM and struct x86_cpu.
 *
 * Order matters where one part decides what another may hold: CPUID before all,
 * the APIC's base (with the segment registers) before its page, that before the
 * TSC deadline, and what is pending comes last.
 */
#include <errno.h>
#include <string.h>

#include "engine/kvm/kvm_internal.h"

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u

/* MSRs that are one field each; runs of them are consecutive fields. */
static const struct msr_field {
    uint32_t first, count;
    uint32_t offset;
} msr_fields[] = {
#define MSRS(first, count, member)                                                                                     \
    {                                                                                                                  \
        first, count, offsetof(struct x86_cpu, msr.member)                                                             \
    }
    MSRS(0x3b, 1, tsc_offset),
    MSRS(0x174, 1, sysenter_cs),
    MSRS(0x175, 1, sysenter_esp),
    MSRS(0x176, 1, sysenter_eip),
    MSRS(0x17a, 1, mcg_status),
    MSRS(0x1d9, 1, debugctl),
    MSRS(0x200, 16, mtrr_var),
    MSRS(0x250, 1, mtrr_fixed[0]),
    MSRS(0x258, 2, mtrr_fixed[1]),
    MSRS(0x268, 8, mtrr_fixed[3]),
    MSRS(0x277, 1, pat),
    MSRS(0x2ff, 1, mtrr_def_type),
    MSRS(0x4b564d00, 1, kvm_wall_clock),
    MSRS(0x4b564d01, 1, kvm_system_time),
    MSRS(0xc0000081, 1, star),
    MSRS(0xc0000082, 1, lstar),
    MSRS(0xc0000083, 1, cstar),
    MSRS(0xc0000084, 1, sfmask),
    MSRS(0xc0000102, 1, kernel_gs_base),
    MSRS(0xc0000103, 1, tsc_aux),
#undef MSRS
};
#define MSR_TOTAL 48

struct msr_batch {
    struct kvm_msrs header;
    struct kvm_msr_entry entry[MSR_TOTAL];
    uint32_t offset[MSR_TOTAL];
};

/* KVM's order of general registers is not the instruction set's. */
static const uint8_t gpr_offset[16] = {
    [RAX] = offsetof(struct kvm_regs, rax), [RCX] = offsetof(struct kvm_regs, rcx),
    [RDX] = offsetof(struct kvm_regs, rdx), [RBX] = offsetof(struct kvm_regs, rbx),
    [RSP] = offsetof(struct kvm_regs, rsp), [RBP] = offsetof(struct kvm_regs, rbp),
    [RSI] = offsetof(struct kvm_regs, rsi), [RDI] = offsetof(struct kvm_regs, rdi),
    [8] = offsetof(struct kvm_regs, r8),    [9] = offsetof(struct kvm_regs, r9),
    [10] = offsetof(struct kvm_regs, r10),  [11] = offsetof(struct kvm_regs, r11),
    [12] = offsetof(struct kvm_regs, r12),  [13] = offsetof(struct kvm_regs, r13),
    [14] = offsetof(struct kvm_regs, r14),  [15] = offsetof(struct kvm_regs, r15),
};

static int failed(struct engine_vcpu *vcpu, const char *what, int rc)
{
    if (rc < 0)
        kvm_break(vcpu, what, rc);
    return rc;
}

/* --- registers ------------------------------------------------------------------------ */

static struct x86_segment unpack_segment(const struct kvm_segment *s)
{
    const bool present = s->present && !s->unusable;

    return (struct x86_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .attr = (uint16_t)(s->type | (s->s ? ATTR_S : 0) | s->dpl << ATTR_DPL_SHIFT | (present ? ATTR_P : 0) |
                           (s->avl ? ATTR_AVL : 0) | (s->l ? ATTR_L : 0) | (s->db ? ATTR_DB : 0) | (s->g ? ATTR_G : 0)),
    };
}

static struct kvm_segment pack_segment(const struct x86_segment *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = s->attr & ATTR_TYPE,
        .s = !!(s->attr & ATTR_S),
        .dpl = (s->attr & ATTR_DPL) >> ATTR_DPL_SHIFT,
        .present = !!(s->attr & ATTR_P),
        .avl = !!(s->attr & ATTR_AVL),
        .l = !!(s->attr & ATTR_L),
        .db = !!(s->attr & ATTR_DB),
        .g = !!(s->attr & ATTR_G),
        .unusable = !(s->attr & ATTR_P),
    };
}

/* struct kvm_sregs2 as it is, or made of the older structure, of which it begins with the same. */
static int read_sregs(struct engine_vcpu *vcpu, struct kvm_sregs2 *s)
{
    struct kvm_sregs old = {0};
    int rc;

    if (kvm_host()->sregs2)
        return kvm_ioctl(vcpu->fd, KVM_GET_SREGS2, s);
    rc = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &old);
    memset(s, 0, sizeof(*s));
    memcpy(s, &old, offsetof(struct kvm_sregs2, flags));
    return rc;
}

static int write_sregs(struct engine_vcpu *vcpu, const struct kvm_sregs2 *s)
{
    struct kvm_sregs old = {0};

    if (kvm_host()->sregs2)
        return kvm_ioctl(vcpu->fd, KVM_SET_SREGS2, s);
    memcpy(&old, s, offsetof(struct kvm_sregs2, flags));
    return kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &old);
}

static bool uses_pdptes(const struct x86_cpu *cpu)
{
    return (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->msr.efer & EFER_LMA);
}

static int get_regs(struct engine_vcpu *vcpu, struct x86_cpu *cpu)
{
    struct kvm_regs regs = {0};
    struct kvm_sregs2 s = {0};
    int rc = kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs);

    if (rc >= 0)
        rc = read_sregs(vcpu, &s);
    if (rc < 0)
        return failed(vcpu, "get registers", rc);
    for (unsigned i = 0; i < 16; i++)
        memcpy(&cpu->gpr[i], (const uint8_t *)&regs + gpr_offset[i], 8);
    cpu->rip = regs.rip;
    cpu->rflags = regs.rflags;
    cpu->seg[SEG_ES] = unpack_segment(&s.es);
    cpu->seg[SEG_CS] = unpack_segment(&s.cs);
    cpu->seg[SEG_SS] = unpack_segment(&s.ss);
    cpu->seg[SEG_DS] = unpack_segment(&s.ds);
    cpu->seg[SEG_FS] = unpack_segment(&s.fs);
    cpu->seg[SEG_GS] = unpack_segment(&s.gs);
    cpu->ldtr = unpack_segment(&s.ldt);
    cpu->tr = unpack_segment(&s.tr);
    cpu->gdtr = (struct x86_table){.base = s.gdt.base, .limit = s.gdt.limit};
    cpu->idtr = (struct x86_table){.base = s.idt.base, .limit = s.idt.limit};
    cpu->cr0 = s.cr0;
    cpu->cr2 = s.cr2;
    cpu->cr3 = s.cr3;
    cpu->cr4 = s.cr4;
    cpu->msr.efer = s.efer;
    cpu->lapic.base_msr = s.apic_base;
    cpu->lapic.tpr = (uint32_t)s.cr8 << 4;
    if (s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
        memcpy(cpu->pdpte, s.pdptrs, sizeof(cpu->pdpte));
    return 0;
}

static int set_regs(struct engine_vcpu *vcpu, const struct x86_cpu *cpu, bool with_apic)
{
    struct kvm_regs regs = {.rip = cpu->rip, .rflags = cpu->rflags};
    struct kvm_sregs2 s = {0};
    int rc = read_sregs(vcpu, &s); /* what is the APIC's stays KVM's unless it is set too */

    if (rc < 0)
        return failed(vcpu, "get registers", rc);
    for (unsigned i = 0; i < 16; i++)
        memcpy((uint8_t *)&regs + gpr_offset[i], &cpu->gpr[i], 8);
    s.es = pack_segment(&cpu->seg[SEG_ES]);
    s.cs = pack_segment(&cpu->seg[SEG_CS]);
    s.ss = pack_segment(&cpu->seg[SEG_SS]);
    s.ds = pack_segment(&cpu->seg[SEG_DS]);
    s.fs = pack_segment(&cpu->seg[SEG_FS]);
    s.gs = pack_segment(&cpu->seg[SEG_GS]);
    s.ldt = pack_segment(&cpu->ldtr);
    s.tr = pack_segment(&cpu->tr);
    s.gdt = (struct kvm_dtable){.base = cpu->gdtr.base, .limit = cpu->gdtr.limit};
    s.idt = (struct kvm_dtable){.base = cpu->idtr.base, .limit = cpu->idtr.limit};
    s.cr0 = cpu->cr0;
    s.cr2 = cpu->cr2;
    s.cr3 = cpu->cr3;
    s.cr4 = cpu->cr4;
    s.efer = cpu->msr.efer;
    s.cr8 = cpu->lapic.tpr >> 4;
    if (with_apic)
        s.apic_base = cpu->lapic.base_msr;
    s.flags = uses_pdptes(cpu) ? KVM_SREGS2_FLAGS_PDPTRS_VALID : 0;
    memcpy(s.pdptrs, cpu->pdpte, sizeof(s.pdptrs));
    rc = write_sregs(vcpu, &s);
    if (rc >= 0)
        rc = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
    return failed(vcpu, "set registers", rc);
}

/* --- floating point -------------------------------------------------------------------- */

static int get_fpu(struct engine_vcpu *vcpu, struct x86_cpu *cpu)
{
    uint8_t area[KVM_XSAVE_SIZE] __attribute__((aligned(64))) = {0};
    struct kvm_xcrs xcrs = {0};
    int rc = kvm_ioctl(vcpu->fd, KVM_GET_XSAVE, area);

    if (rc >= 0 && kvm_host()->xcrs)
        rc = kvm_ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs);
    if (rc < 0)
        return failed(vcpu, "get floating-point state", rc);
    memcpy(&cpu->fpu, area, sizeof(cpu->fpu));
    x86_fpu_normalise(&cpu->fpu);
    for (unsigned i = 0; i < xcrs.nr_xcrs; i++)
        if (xcrs.xcrs[i].xcr == 0)
            cpu->xcr0 = xcrs.xcrs[i].value;
    return 0;
}

static int set_fpu(struct engine_vcpu *vcpu, const struct x86_cpu *cpu)
{
    uint8_t area[KVM_XSAVE_SIZE] __attribute__((aligned(64))) = {0};
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0].value = cpu->xcr0};
    int rc = 0;

    memcpy(area, &cpu->fpu, sizeof(cpu->fpu));
    if (kvm_host()->xcrs)
        rc = kvm_ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs);
    if (rc >= 0)
        rc = kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, area);
    return failed(vcpu, "set floating-point state", rc);
}

/* --- debug registers --------------------------------------------------------------------- */

static int get_debug(struct engine_vcpu *vcpu, struct x86_cpu *cpu)
{
    struct kvm_debugregs d = {0};
    int rc = kvm_ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &d);

    if (rc < 0)
        return failed(vcpu, "get debug registers", rc);
    memcpy(cpu->dr, d.db, sizeof(d.db));
    cpu->dr[6] = d.dr6;
    cpu->dr[7] = d.dr7;
    return 0;
}

static int set_debug(struct engine_vcpu *vcpu, const struct x86_cpu *cpu)
{
    struct kvm_debugregs d = {.dr6 = cpu->dr[6], .dr7 = cpu->dr[7]};

    memcpy(d.db, cpu->dr, sizeof(d.db));
    return failed(vcpu, "set debug registers", kvm_ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &d));
}

/* --- MSRs ---------------------------------------------------------------------------------- */

static void add_msr(struct msr_batch *batch, uint32_t msr, uint32_t offset, uint64_t value)
{
    if (batch->header.nmsrs == MSR_TOTAL)
        return;
    batch->offset[batch->header.nmsrs] = offset;
    batch->entry[batch->header.nmsrs++] = (struct kvm_msr_entry){.index = msr, .data = value};
}

static void list_msrs(struct msr_batch *batch, const struct x86_cpu *cpu)
{
    batch->header = (struct kvm_msrs){0};
    for (unsigned i = 0; i < ARRAY_SIZE(msr_fields); i++) {
        const struct msr_field *f = &msr_fields[i];

        for (unsigned n = 0; n < f->count; n++) {
            uint64_t value;

            memcpy(&value, (const uint8_t *)cpu + f->offset + 8 * n, 8);
            add_msr(batch, f->first + n, f->offset + 8 * n, value);
        }
    }
    add_msr(batch, MSR_TSC_DEADLINE, offsetof(struct x86_cpu, lapic.tsc_deadline), cpu->lapic.tsc_deadline);
}

/* KVM stops at the first MSR that this processor does not have: it is left out, and those after it have their turn.
 * done[i]: MSR i was transferred. */
static int transfer(struct engine_vcpu *vcpu, unsigned long request, struct msr_batch *batch, bool done[MSR_TOTAL])
{
    const unsigned count = batch->header.nmsrs;

    memset(done, 0, MSR_TOTAL * sizeof(done[0]));
    for (unsigned at = 0; at < count;) {
        struct {
            struct kvm_msrs header;
            struct kvm_msr_entry entry[MSR_TOTAL];
        } rest = {.header.nmsrs = count - at};
        int n;

        memcpy(rest.entry, &batch->entry[at], (count - at) * sizeof(rest.entry[0]));
        n = kvm_ioctl(vcpu->fd, request, &rest);
        if (n < 0)
            return n;
        memcpy(&batch->entry[at], rest.entry, (unsigned)n * sizeof(rest.entry[0]));
        memset(&done[at], true, (unsigned)n * sizeof(done[0]));
        at += (unsigned)n + 1;
    }
    return 0;
}

static int get_msrs(struct engine_vcpu *vcpu, struct x86_cpu *cpu)
{
    struct msr_batch batch;
    bool done[MSR_TOTAL];
    int rc;

    list_msrs(&batch, cpu);
    rc = transfer(vcpu, KVM_GET_MSRS, &batch, done);
    if (rc < 0)
        return failed(vcpu, "get model-specific registers", rc);
    for (unsigned i = 0; i < batch.header.nmsrs; i++)
        if (done[i])
            memcpy((uint8_t *)cpu + batch.offset[i], &batch.entry[i].data, 8);
    return 0;
}

/* The guest's TSC is the VM's clock plus this vCPU's offset. */
static int set_tsc(struct engine_vcpu *vcpu, const struct x86_cpu *cpu)
{
    uint64_t offset = vcpu->vm->tsc_offset + cpu->msr.tsc_offset;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)&offset};
    struct msr_batch batch = {.header.nmsrs = 0};
    bool done[MSR_TOTAL];

    if (vclock_is_manual(vcpu->vm->clock) || !kvm_ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr))
        return 0;
    /* Before Linux 5.16: the value, which is some time old when it is there. */
    add_msr(&batch, MSR_TSC, 0, vclock_tsc(vcpu->vm->clock) + cpu->msr.tsc_offset);
    return transfer(vcpu, KVM_SET_MSRS, &batch, done);
}

/* Only what differs is written: some MSRs act when they are, and KVM has a line in the kernel's log for others. */
static int set_msrs(struct engine_vcpu *vcpu, const struct x86_cpu *cpu)
{
    struct msr_batch wanted, present, batch = {.header.nmsrs = 0};
    bool done[MSR_TOTAL];
    int rc = set_tsc(vcpu, cpu);

    list_msrs(&wanted, cpu);
    present = wanted;
    if (rc >= 0)
        rc = transfer(vcpu, KVM_GET_MSRS, &present, done);
    for (unsigned i = 0; i < wanted.header.nmsrs; i++)
        if (done[i] && wanted.entry[i].data != present.entry[i].data)
            add_msr(&batch, wanted.entry[i].index, 0, wanted.entry[i].data);
    if (rc >= 0)
        rc = transfer(vcpu, KVM_SET_MSRS, &batch, done);
    return failed(vcpu, "set model-specific registers", rc);
}

/* --- APIC -------------------------------------------------------------------------------------- */

static int get_apic(struct engine_vcpu *vcpu, struct x86_cpu *cpu)
{
    struct kvm_lapic_state page = {{0}};
    int rc = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &page);

    if (rc < 0)
        return failed(vcpu, "get the local APIC", rc);
    kvm_apic_unpack(vcpu, &cpu->lapic, &page);
    return 0;
}

/* Requests posted to a software APIC and not taken in yet are requests. */
static int set_apic(struct engine_vcpu *vcpu, const struct x86_cpu *cpu)
{
    struct kvm_lapic_state page = {{0}};
    struct x86_lapic lapic;

    memcpy(&lapic, &cpu->lapic, sizeof(lapic));
    for (unsigned i = 0; i < 8; i++) {
        uint32_t bits = atomic_load(&cpu->lapic.posted[i]), level = atomic_load(&cpu->lapic.posted_level[i]);

        lapic.irr[i] |= bits;
        lapic.tmr[i] = (lapic.tmr[i] & ~bits) | (level & bits);
    }
    kvm_apic_pack(vcpu, &lapic, &page);
    return failed(vcpu, "set the local APIC", kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &page));
}

/* --- events ------------------------------------------------------------------------------------ */

static int get_events(struct engine_vcpu *vcpu, struct x86_cpu *cpu)
{
    struct kvm_vcpu_events e = {0};
    struct kvm_mp_state mp = {0};
    int rc = kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &e);

    if (rc >= 0)
        rc = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);
    if (rc < 0)
        return failed(vcpu, "get pending events", rc);
    /* SVM does not tell the two shadows apart; KVM then gives both. */
    cpu->int_shadow = e.interrupt.shadow == KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS
                      : e.interrupt.shadow                            ? SHADOW_STI
                                                                      : SHADOW_NONE;
    cpu->nmi_masked = e.nmi.masked;
    cpu->nmi_pending = e.nmi.pending || e.nmi.injected || atomic_load(&vcpu->nmi);
    cpu->injected_valid = e.exception.injected || e.interrupt.injected;
    if (e.exception.injected)
        cpu->injected = (struct x86_event){
            .vector = e.exception.nr, .has_error = e.exception.has_error_code, .error = e.exception.error_code};
    else if (e.interrupt.injected)
        cpu->injected = (struct x86_event){.vector = e.interrupt.nr};
    cpu->halted = mp.mp_state == KVM_MP_STATE_HALTED;
    cpu->wait_for_sipi = mp.mp_state == KVM_MP_STATE_UNINITIALIZED || mp.mp_state == KVM_MP_STATE_INIT_RECEIVED;
    return 0;
}

static int set_events(struct engine_vcpu *vcpu, const struct x86_cpu *cpu, bool keep_nmi)
{
    static const uint8_t shadows[] = {
        [SHADOW_NONE] = 0, [SHADOW_STI] = KVM_X86_SHADOW_INT_STI, [SHADOW_MOV_SS] = KVM_X86_SHADOW_INT_MOV_SS};
    const bool interrupt = cpu->injected_valid && cpu->injected.vector > 31;
    struct kvm_mp_state mp = {.mp_state = cpu->wait_for_sipi ? KVM_MP_STATE_INIT_RECEIVED
                                          : cpu->halted      ? KVM_MP_STATE_HALTED
                                                             : KVM_MP_STATE_RUNNABLE};
    struct kvm_vcpu_events e = {
        .flags = KVM_VCPUEVENT_VALID_SHADOW | (keep_nmi ? 0 : KVM_VCPUEVENT_VALID_NMI_PENDING),
        .interrupt = {.injected = interrupt,
                      .nr = interrupt ? cpu->injected.vector : 0,
                      .shadow = shadows[cpu->int_shadow]},
        .exception = {.injected = cpu->injected_valid && !interrupt,
                      .nr = interrupt ? 0 : cpu->injected.vector,
                      .has_error_code = cpu->injected.has_error,
                      .error_code = cpu->injected.error},
        .nmi = {.pending = cpu->nmi_pending, .masked = cpu->nmi_masked},
    };
    int rc = kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &e);

    if (!keep_nmi)
        atomic_store(&vcpu->nmi, false);
    if (rc >= 0)
        rc = kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp);
    return failed(vcpu, "set pending events", rc);
}

/* --- all ----------------------------------------------------------------------------------------- */

int kvm_state_get(struct engine_vcpu *vcpu, struct x86_cpu *cpu, unsigned parts)
{
    int rc = 0;

    if (parts & KVM_PART_REGS)
        rc = get_regs(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_APIC))
        rc = get_apic(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_FPU))
        rc = get_fpu(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_DEBUG))
        rc = get_debug(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_MSRS))
        rc = get_msrs(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_EVENTS))
        rc = get_events(vcpu, cpu);
    return rc;
}

int kvm_state_set(struct engine_vcpu *vcpu, const struct x86_cpu *cpu, unsigned parts)
{
    int rc = 0;

    if (parts & KVM_PART_REGS)
        rc = set_regs(vcpu, cpu, parts & KVM_PART_APIC);
    if (rc >= 0 && (parts & KVM_PART_FPU))
        rc = set_fpu(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_DEBUG))
        rc = set_debug(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_APIC))
        rc = set_apic(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_MSRS))
        rc = set_msrs(vcpu, cpu);
    if (rc >= 0 && (parts & KVM_PART_EVENTS))
        rc = set_events(vcpu, cpu, parts & KVM_PART_KEEP_NMI);
    return rc;
}
