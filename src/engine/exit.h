/*
 * engine/exit.h: why run() returned: one tagged union.
 */
#ifndef ENGINE_EXIT_H
#define ENGINE_EXIT_H

#include "base/types.h"

enum exit_reason {
    EXIT_PIO,        /* port access: serve it, fill in data on a read, call run() again */
    EXIT_MMIO,       /* access to no memory: the same */
    EXIT_HALT,       /* HLT with nothing that could ever wake it but an NMI (IF = 0) is also this; run() again sleeps */
    EXIT_IRQ_WINDOW, /* asked for with request_irq_window: inject() will be accepted now */
    EXIT_EOI,        /* level-triggered vector acknowledged: tell the IOAPIC */
    EXIT_SHUTDOWN,   /* triple fault */
    EXIT_INTERRUPTED, /* kick() */
    EXIT_BUDGET,      /* run()'s instruction budget is used up */
    EXIT_DEBUG,       /* debugger's breakpoint or step */
    EXIT_ERROR,       /* the engine cannot go on: text says why */
    EXIT_COUNT
};

struct exit {
    enum exit_reason reason;
    union {
        struct {
            uint16_t port;
            uint8_t size; /* 1, 2, 4 */
            bool write;
            uint32_t data;
        } pio;
        struct {
            gpa_t gpa;
            uint8_t size; /* 1, 2, 4, 8 */
            bool write;
            uint64_t data;
        } mmio;
        struct {
            uint8_t vector;
        } eoi;
        struct {
            uint8_t vectors[4]; /* the exceptions that led there, first one first; 0xff: none */
            uint64_t rip, cr2;  /* of the first */
            uint32_t error;
        } shutdown;
        struct {
            char text[160];
        } error;
    };
};

#endif
