/*
 * machine/machine_internal.h: the parts of a running machine. vm.c owns the
 * life cycle, board.c the devices, vcpu.c the run loop.
 */
#ifndef MACHINE_MACHINE_INTERNAL_H
#define MACHINE_MACHINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/lock.h"
#include "base/loop.h"
#include "boot/boot.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "machine/machine.h"

struct board;
struct doorbells;

struct vcpu {
    struct machine *machine;
    struct engine_vcpu *engine;
    unsigned id;
    pthread_t thread;
    bool started;
};

struct machine {
    struct machine_config config;
    const struct engine_ops *engine;
    struct engine_vm *vm;
    struct mem *mem;
    struct bus *bus;
    struct board *board;
    struct doorbells *doorbells; /* NULL: the engine has none */
    struct vcpu *vcpus;          /* [config.cpus] */
    _Atomic bool stopping;

    struct lock lock; /* result */
    struct machine_result result;
};

/* The machine has ended; the first to say so is heard. Stops the loop. Any thread. text may be NULL. */
void machine_end(struct machine *machine, enum machine_end end, int code, const char *text);

/* board.c */
struct board *board_new(struct machine *machine, struct error *err);
void board_free(struct board *board);
gpa_t board_rsdp(const struct board *board);
/* The 8259 pair, as vCPU 0 sees it: does it ask for an interrupt, and which? */
bool board_pic_pending(const struct board *board);
uint8_t board_pic_acknowledge(struct board *board);
void board_eoi(struct board *board, uint8_t vector);

/* doorbells.c; add and place are for struct doorbell_host */
struct doorbells *doorbells_new(struct machine *machine, struct error *err);
void doorbells_free(struct doorbells *doorbells);
int doorbells_add(void *doorbells, void (*ring)(void *bell_opaque, unsigned number), void *bell_opaque,
                  unsigned number);
void doorbells_place(void *doorbells, int bell, gpa_t gpa, bool on);
int doorbells_start(struct doorbells *doorbells);
void doorbells_stop(struct doorbells *doorbells);

/* vcpu.c */
void *vcpu_thread(void *vcpu);

/* dump.c: the processor's state for a person, several lines. */
void dump_cpu(char *text, size_t size, const struct x86_cpu *cpu);
void dump_shutdown(char *text, size_t size, const struct exit *exit, const struct x86_cpu *cpu);

#endif
