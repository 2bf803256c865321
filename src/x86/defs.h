/*
 * x86/defs.h: the architecture's constants, under the manuals' names
 * (AMD64 APM vol. 2, Intel SDM vol. 3).
 */
#ifndef X86_DEFS_H
#define X86_DEFS_H

#include "base/types.h"

enum x86_gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum x86_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };

/* How code at CS:RIP is decoded and executed. */
enum x86_mode {
    MODE_REAL16,   /* real mode (always 16-bit code) */
    MODE_VM86,     /* virtual-8086 */
    MODE_PROT16,   /* protected, CS.D = 0 */
    MODE_PROT32,   /* protected, CS.D = 1 */
    MODE_COMPAT16, /* long mode, CS.L = 0, CS.D = 0 */
    MODE_COMPAT32, /* long mode, CS.L = 0, CS.D = 1 */
    MODE_LONG64,   /* long mode, CS.L = 1 */
};

/* What a semantic function returns. */
enum x86_rc {
    X86_NEXT,  /* done: the runner adds the instruction's length to RIP */
    X86_JUMP,  /* done: RIP is already set */
    X86_AGAIN, /* one iteration of a REP done; RIP stays; interrupts may be taken */
    X86_FAULT, /* cpu->exc is to be delivered; nothing else was changed */
    X86_EXIT,  /* cpu->io is wanted; the instruction is started anew when it is there */
};

enum x86_shadow { SHADOW_NONE, SHADOW_STI, SHADOW_MOV_SS };

enum x86_vector {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
    VEC_XM = 19,
};

enum {
    FLAG_CF = 1 << 0,
    FLAG_FIXED = 1 << 1,
    FLAG_PF = 1 << 2,
    FLAG_AF = 1 << 4,
    FLAG_ZF = 1 << 6,
    FLAG_SF = 1 << 7,
    FLAG_TF = 1 << 8,
    FLAG_IF = 1 << 9,
    FLAG_DF = 1 << 10,
    FLAG_OF = 1 << 11,
    FLAG_IOPL = 3 << 12,
    FLAG_NT = 1 << 14,
    FLAG_RF = 1 << 16,
    FLAG_VM = 1 << 17,
    FLAG_AC = 1 << 18,
    FLAG_VIF = 1 << 19,
    FLAG_VIP = 1 << 20,
    FLAG_ID = 1 << 21,
    FLAGS_STATUS = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF,
};

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME        BIT(0)
#define CR4_PVI        BIT(1)
#define CR4_TSD        BIT(2)
#define CR4_DE         BIT(3)
#define CR4_PSE        BIT(4)
#define CR4_PAE        BIT(5)
#define CR4_MCE        BIT(6)
#define CR4_PGE        BIT(7)
#define CR4_PCE        BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)

#define EFER_SCE    BIT(0)
#define EFER_LME    BIT(8)
#define EFER_LMA    BIT(10)
#define EFER_NXE    BIT(11)
#define EFER_FFXSR  BIT(14)
#define EFER_AIBRSE BIT(21) /* automatic IBRS: no function here */

#define XCR0_X87 BIT(0)
#define XCR0_SSE BIT(1)
#define XCR0_AVX BIT(2)

/* Segment attributes, in struct x86_segment's layout. */
#define ATTR_TYPE        0x000f
#define ATTR_ACCESSED    0x0001
#define ATTR_WRITABLE    0x0002 /* data */
#define ATTR_READABLE    0x0002 /* code */
#define ATTR_EXPAND_DOWN 0x0004
#define ATTR_CONFORMING  0x0004
#define ATTR_CODE        0x0008
#define ATTR_S           0x0010
#define ATTR_DPL_SHIFT   5
#define ATTR_DPL         0x0060
#define ATTR_P           0x0080
#define ATTR_AVL         0x1000
#define ATTR_L           0x2000
#define ATTR_DB          0x4000
#define ATTR_G           0x8000

/* #PF error code. */
#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_I    16u

/* struct x86_cpu::events */
#define X86_EV_KICK   1u /* leave run() */
#define X86_EV_APIC   2u /* the LAPIC has posted or pending requests, or its state changed: look at it */
#define X86_EV_NMI    4u
#define X86_EV_INIT   8u
#define X86_EV_SIPI   16u
#define X86_EV_SMI    32u
#define X86_EV_WINDOW 64u   /* leave run() as soon as an external interrupt could be taken */
#define X86_EV_FLUSH  128u  /* flush the soft TLB (another thread changed the memory map) */
#define X86_EV_MEMORY 512u  /* another thread wrote to RAM: decoded code there is to be dropped */
#define X86_EV_UNHALT 2048u /* a halted processor is to go on (KVM's paravirtual kick) */
#define X86_EV_SHARE  1024u /* another processor waits for something of ours */
#define X86_EV_TRAP   256u  /* single-step: TF or debug registers are live */

#endif
