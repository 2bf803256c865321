/*
 * x86/bus.h: what the semantics ask of whoever runs a vCPU: guest-physical
 * memory, I/O, time, other processors. x86/ knows no device, engine or host
 * API but through this table. Called on the vCPU's thread.
 */
#ifndef X86_BUS_H
#define X86_BUS_H

#include "x86/cpu.h"

#define X86_PAGE_READONLY 1u /* ROM: writes are dropped (they go to mmio()) */
#define X86_PAGE_WATCHED  2u /* a write must be told by written(): decoded code, dirty log */
/* Other processors may come to watch it: a write is told by written(), except through a TLB entry, or a shadow's
 * mapping, that claim() agreed to. */
#define X86_PAGE_SHARED 4u

struct x86_bus_ops {
    /* The host address of the page at gpa (page-aligned), or NULL: not memory. */
    uint8_t *(*page)(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags);
    /* After a write to a watched page: [gpa, gpa + len) does not cross a page. */
    void (*written)(struct x86_cpu *cpu, gpa_t gpa, unsigned len);
    /* Of a page that is X86_PAGE_SHARED: may a TLB entry, or a shadow's mapping, let writes to it through? */
    bool (*claim)(struct x86_cpu *cpu, gpa_t page);
    /* Other processors stand still from begin to end: an atomic operation that the host has no instruction for. NULL:
     * there are no others. */
    void (*exclusive)(struct x86_cpu *cpu, bool begin);
    /* From begin to end no other processor's access reaches a device, not even while this one's instruction is left for
     * an exit: a locked operation on what is not memory. X86_AGAIN: another one has begun. NULL: there are no others.
     */
    enum x86_rc (*lock_devices)(struct x86_cpu *cpu, bool begin);
    /* An access to what is not memory, or to ROM; size 1, 2, 4 or 8. X86_NEXT: done; X86_EXIT: cpu->io is wanted. */
    enum x86_rc (*mmio)(struct x86_cpu *cpu, gpa_t gpa, uint64_t *data, unsigned size, bool write);
    enum x86_rc (*port)(struct x86_cpu *cpu, uint16_t port, uint32_t *data, unsigned size, bool write);
    uint64_t (*tsc)(struct x86_cpu *cpu);     /* the VM clock's TSC, without this vCPU's offset */
    uint64_t (*tsc_hz)(struct x86_cpu *cpu);  /* its frequency; the APIC timer's is X86_APIC_HZ */
    uint64_t (*ns)(struct x86_cpu *cpu);      /* VM clock, nanoseconds */
    uint64_t (*wall_ns)(struct x86_cpu *cpu); /* wall clock (Unix time) at which ns() was 0, nanoseconds */
    void (*send_ipi)(struct x86_cpu *cpu, const struct x86_apic_message *message);
    void (*unhalt)(struct x86_cpu *cpu,
                   uint32_t apic_id);                 /* that processor's HLT, present or next, ends; may be NULL */
    void (*pause)(struct x86_cpu *cpu);               /* PAUSE: it waits for another processor; may be NULL */
    void (*eoi)(struct x86_cpu *cpu, uint8_t vector); /* a level-triggered vector was acknowledged */
    unsigned (*cpu_count)(struct x86_cpu *cpu);       /* for CPUID's topology */
};

#endif
