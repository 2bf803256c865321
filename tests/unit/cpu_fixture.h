/*
 * tests/unit/cpu_fixture.h: one processor over a few MiB of RAM that lies at the
 * same address for guest-linear, guest-physical and host, so that the same
 * register values work in the emulator and natively.
 */
#ifndef TESTS_UNIT_CPU_FIXTURE_H
#define TESTS_UNIT_CPU_FIXTURE_H

#include "x86/bus.h"
#include "x86/cpu.h"
#include "x86/insn.h"

#define FIX_BASE      0x10000000ull
#define FIX_SIZE      MIB(2)
#define FIX_CODE      (FIX_BASE + 0x80000)
#define FIX_DATA      (FIX_BASE + 0x100000) /* FIX_DATA_SIZE bytes, compared and restored */
#define FIX_DATA_SIZE 0x4000
#define FIX_MMIO      0x20000000ull /* no memory there; mapped at that linear address too */

struct fixture {
    struct x86_cpu cpu;
    uint8_t *ram; /* FIX_SIZE bytes at FIX_BASE */
    unsigned mmio_calls, port_calls;
    uint64_t mmio_data; /* what MMIO and port reads give, and what was written last */
    enum x86_rc io_rc;  /* what mmio() and port() return */
    uint64_t io_addr;
};

struct fixture *fixture_new(void);
void fixture_free(struct fixture *f);

/* Flat modes with everything mapped writable, CPL 0; registers cleared. */
void fixture_long64(struct fixture *f);
void fixture_prot32(struct fixture *f);
/* 16-bit protected mode: all segments at FIX_DATA, limit 64 KiB; CS at FIX_CODE. */
void fixture_prot16(struct fixture *f);

/* In 64-bit mode: the page's entry becomes present and writable as given. */
void fixture_map(struct fixture *f, uint64_t addr, bool present, bool writable);

/* Decodes and executes one instruction at FIX_CODE; advances RIP as an engine does. */
enum x86_rc fixture_exec(struct fixture *f, const uint8_t *bytes, unsigned size);
/* The same, again and again while it returns X86_AGAIN; *calls (may be NULL): how often. */
enum x86_rc fixture_exec_all(struct fixture *f, const uint8_t *bytes, unsigned size, unsigned *calls);

#endif
