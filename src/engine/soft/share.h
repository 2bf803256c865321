/*
 * engine/soft/share.h: several vCPUs and one memory. Decoded code and soft TLBs
 * are each vCPU's own; here is who holds code of a page and who may write to it
 * without being asked, so that no write to code goes unnoticed by another vCPU.
 *
 * For each page of RAM: `writers`, the vCPUs whose soft TLB or shadow may have it
 * writable, and `holders`, those with code decoded from it. The rule: while a
 * page has holders no vCPU makes it writable there (soft_share_claim refuses),
 * and a vCPU that becomes the first holder reads no code before every writer has
 * given the page up (soft_share_hold asks and waits). Writes to pages with
 * holders come through soft_share_written, which tells the holders: the event is
 * there before any later write of the writer's can be seen, hence before the
 * other processor executes a serialising instruction for it (SDM vol. 3, 8.1.3).
 *
 * A vCPU that does not run guest code is not waited for: it looks at what was
 * asked before it runs again.
 */
#ifndef ENGINE_SOFT_SHARE_H
#define ENGINE_SOFT_SHARE_H

#include <stdatomic.h>

#include "base/lock.h"
#include "x86/cpu.h"

#define SHARE_MAX_SLOTS 64
#define SHARE_REQUESTS  64

struct soft_vm;
struct soft_vcpu;

struct soft_page {
    _Atomic uint64_t writers, holders; /* bit n: vCPU n */
    _Atomic uint64_t lines;            /* bit n: bytes [64 n, 64 n + 64) may hold code of some holder */
};

struct soft_share {
    bool on; /* there are several vCPUs */
    struct lock lock;
    unsigned slots;
    struct {
        gpa_t first;
        uint64_t count; /* pages */
        struct soft_page *page;
    } slot[SHARE_MAX_SLOTS];
    _Atomic uint32_t exclusive;    /* the vCPU that has all others stand still, plus 1 */
    _Atomic uint32_t device_owner; /* the one whose locked instruction on a device is not at its end, plus 1 */
};

/* What others want of a vCPU: to give up pages. */
struct soft_requests {
    struct lock lock;
    unsigned count; /* SHARE_REQUESTS + 1: too many to be kept, all pages are to be given up */
    gpa_t page[SHARE_REQUESTS];
    uint64_t asked;
    _Atomic uint64_t served;
    _Atomic bool running; /* guest code, or about to; see soft_share_enter() */
    _Atomic bool device;  /* it has left, or is about to, for an access to a device */
};

int soft_share_init(struct soft_vm *vm); /* -ENOMEM */
void soft_share_fini(struct soft_vm *vm);
void soft_share_vcpu_init(struct soft_vcpu *vcpu);
void soft_share_vcpu_fini(struct soft_vcpu *vcpu);

/* Around the execution of guest code. The vCPU's thread; between instructions. */
void soft_share_enter(struct soft_vcpu *vcpu);
void soft_share_leave(struct soft_vcpu *vcpu);
/* Does what others wait for. Between instructions. */
void soft_share_serve(struct soft_vcpu *vcpu);

/* The vCPU will decode code from the page: returns when nobody can write to it unnoticed. Between instructions. */
void soft_share_hold(struct soft_vcpu *vcpu, gpa_t page);
/* Bytes there hold its code now (or will). */
void soft_share_add_lines(struct soft_vcpu *vcpu, gpa_t page, uint64_t lines);
/* It has no code in the page any more. */
void soft_share_release(struct soft_vcpu *vcpu, gpa_t page);

bool soft_share_held(const struct soft_vm *vm, gpa_t page); /* by any vCPU */
/* May the vCPU's TLB have the page writable from now on? */
bool soft_share_claim(struct soft_vcpu *vcpu, gpa_t page);
/* It wrote there: others with code in these bytes are told. Within a page. */
void soft_share_written(struct soft_vcpu *vcpu, gpa_t gpa, unsigned len);

/* All other vCPUs stand still from begin to end: for what the host cannot do atomically. In an instruction. */
void soft_share_exclusive(struct soft_vcpu *vcpu, bool begin);

/* From begin to end no other vCPU leaves for a device: a locked instruction, which leaves twice itself. X86_AGAIN: not
 * now; the instruction is to be tried again once events were looked at. */
enum x86_rc soft_share_lock_devices(struct soft_vcpu *vcpu, bool begin);
/* Around an exit to a device, not running. false: it cannot be done now, and the vCPU is wanted elsewhere. */
bool soft_share_reach_device(struct soft_vcpu *vcpu);
void soft_share_reached_device(struct soft_vcpu *vcpu);

#endif
