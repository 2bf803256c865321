/*
 * fuzz/guest.h: the guest that fuzz targets start from: a quarter megabyte of
 * RAM with sound system tables, in any of six modes. What the input then
 * changes of them is the target's.
 */
#ifndef FUZZ_GUEST_H
#define FUZZ_GUEST_H

#include "x86/cpu.h"

#define GUEST_RAM   KIB(256)
#define GUEST_GDT   0x1000
#define GUEST_IDT   0x2000
#define GUEST_TSS   0x3000 /* and the second one 0x400 further */
#define GUEST_CODE  0x8000
#define GUEST_STACK 0x10000
#define GUEST_PAGES 0x20000

struct guest_header { /* of the input */
    uint8_t mode, cpl, flags, tables;
    uint64_t gpr[16];
    uint16_t rflags;
};

enum { GUEST_PAGING = 1, GUEST_OWN_STACK = 2 }; /* flags */

struct guest_patch { /* of the tables, header.tables % 8 of them after the header */
    uint16_t at;
    uint8_t bytes[6];
};

/* Takes the header and the patches off the input and applies them: the whole of ram, and cpu, which has been reset
 * and needs x86_update_mode() (or an engine's set_state) afterwards. false: too short. */
bool guest_build(struct x86_cpu *cpu, uint8_t *ram, const uint8_t **data, size_t *size);

#endif
