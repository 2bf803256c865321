/*
 * tests/unit/x86_fake.h: one vCPU with nothing around it: a few MiB of RAM, a ROM
 * page, MMIO everywhere else, a clock that is moved by hand.
 */
#ifndef TESTS_X86_FAKE_H
#define TESTS_X86_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "x86/bus.h"
#include "x86/intr.h"
#include "x86/mmu.h"
#include "x86/tlb.h"

#define FAKE_RAM    MIB(4)
#define FAKE_ROM    0xf0000000ull /* one page, filled with 0x5a */
#define FAKE_TSC_HZ 2000000000ull
#define FAKE_LOG    32

struct fake_io {
    gpa_t gpa;
    uint64_t data;
    unsigned size;
    bool write;
};

struct fake {
    struct x86_cpu cpu;
    struct x86_tlb tlb;
    uint8_t *ram, *rom;
    gpa_t watched;  /* that page is X86_PAGE_WATCHED; UINT64_MAX: none */
    bool mmio_exit; /* MMIO goes through the log of x86/io.h */
    struct fake_io io[FAKE_LOG];
    unsigned io_count;
    gpa_t written[FAKE_LOG];
    unsigned written_count;
    uint64_t ns;
    struct x86_apic_message ipi[FAKE_LOG];
    unsigned ipi_count;
    uint8_t eoi[FAKE_LOG];
    unsigned eoi_count;
    unsigned cpus;
};

/* After reset, with an empty TLB. */
struct fake *fake_new(uint32_t id);
void fake_free(struct fake *fake);

uint64_t fake_read(const struct fake *fake, gpa_t gpa, unsigned size);
void fake_write(struct fake *fake, gpa_t gpa, uint64_t value, unsigned size);

/* Flat segments of that size (16, 32 or 64) at a privilege level, in protected or long mode. */
void fake_segments(struct fake *fake, unsigned bits, unsigned cpl);
/* Paging on, as whole register values; long mode if efer has LME. Then fake_segments is to be called. */
void fake_paging(struct fake *fake, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer);

#endif
