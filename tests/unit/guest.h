/*
 * tests/unit/guest.h: a processor on a flat megabyte of RAM, without an engine:
 * hand-built GDT, IDT, TSSs, and instructions executed one by one.
 */
#ifndef TESTS_UNIT_GUEST_H
#define TESTS_UNIT_GUEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "x86/bus.h"
#include "x86/segment.h"

#define RAM_SIZE MIB(1)

/* Where things lie. */
#define GDT_AT    0x1000
#define IDT_AT    0x2000
#define TSS_AT    0x3000
#define LDT_AT    0x3800
#define TSS2_AT   0x4000
#define CODE_AT   0x8000
#define HANDLER   0x9000 /* + 16 * vector */
#define STACK0    0x20000
#define STACK1    0x28000
#define STACK3    0x30000
#define IST_STACK 0x38000
#define PAGES_AT  0x70000

/* The GDT. */
enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x1b,
    DATA3 = 0x23,
    TSS = 0x28,
    CODE64 = 0x38,
    USER64 = 0x43,
    CONFORMING = 0x48,
    CODE16 = 0x50,
    DATA16 = 0x58,
    TSS2 = 0x60,
    GATE = 0x70,
    LDT = 0x80,
    CODE1 = 0x91,
    DATA1 = 0x99,
    ABSENT = 0xa0,
    READONLY = 0xa8,
    EXECONLY = 0xb0,
    GDT_END = 0xc0,
};

struct guest {
    struct x86_cpu cpu;
    struct x86_tlb tlb;
    uint8_t ram[RAM_SIZE];
    /* The last port access. */
    uint16_t port;
    uint32_t port_data;
    unsigned port_size, port_count;
};

/* cmocka fixture: *state is a struct guest *. */
int guest_setup(void **state);
int guest_teardown(void **state);

/* Modes to start in, at CODE_AT, interrupts on. */
void guest_real(struct guest *g);
void guest_protected(struct guest *g, unsigned cpl); /* 32-bit, flat, no paging */
void guest_long(struct guest *g, unsigned cpl);      /* 64-bit, RAM mapped to itself, for user mode too */

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned attr);
uint64_t gate(uint16_t selector, uint32_t offset, unsigned attr);
void set_gdt(struct guest *g, uint16_t selector, uint64_t raw);
/* An IDT gate to HANDLER + 16 * vector: 8 or 16 bytes as the mode wants. */
void set_gate(struct guest *g, uint8_t vector, uint16_t selector, unsigned attr, unsigned ist);

uint64_t peek(const struct guest *g, gpa_t gpa, unsigned size);
void poke(struct guest *g, gpa_t gpa, uint64_t value, unsigned size);

/* Executes one instruction at RIP; a fault is left in cpu.exc. */
enum x86_rc exec_bytes(struct guest *g, const uint8_t *bytes, unsigned size);
#define EXEC_BYTES(g, ...) exec_bytes(g, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

void expect_fault(struct guest *g, enum x86_rc rc, uint8_t vector, uint32_t error);

#endif
