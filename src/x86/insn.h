/*
 * x86/insn.h: a decoded instruction, ready to execute, and the tables that say
 * which function executes it.
 *
 * Decoding is Zydis's; x86_decode() folds its result into this compact form
 * once, and the engine keeps it. An instruction does not know where it lies:
 * the same one serves every mapping of its page.
 */
#ifndef X86_INSN_H
#define X86_INSN_H

#include "x86/cpu.h"
#include "x86/cpuid.h"

typedef enum x86_rc x86_exec_fn(struct x86_cpu *cpu, const struct x86_insn *in);

/* Explicit operands, in Intel order: R register (any file), M memory, I immediate.
 * Operands beyond three, or implicit ones, do not show. */
enum x86_shape {
    SHAPE_NONE,
    SHAPE_R,
    SHAPE_M,
    SHAPE_I,
    SHAPE_RR,
    SHAPE_RM,
    SHAPE_MR,
    SHAPE_RI,
    SHAPE_MI,
    SHAPE_II /* ENTER, far pointer */,
    SHAPE_RRR,
    SHAPE_RRM,
    SHAPE_RMR,
    SHAPE_MRR,
    SHAPE_RRI,
    SHAPE_RMI,
    SHAPE_MRI,
    SHAPE_OTHER, /* four operands: look at the Zydis instruction when selecting */
};

enum x86_insn_flags {
    INSN_LOCK = 1 << 0,
    INSN_REP = 1 << 1,   /* F3 */
    INSN_REPNE = 1 << 2, /* F2 */
    INSN_END = 1 << 3,   /* ends a block: may jump, change mode, or what interrupts look at; or serialises */
    INSN_VEX = 1 << 4,
    INSN_VEX_L = 1 << 5,       /* 256 bits */
    INSN_CONDITIONAL = 1 << 6, /* Jcc: a block may go on behind it */
};

#define X86_REG_RIP  16
#define X86_REG_ZERO 17

/*
 * Register operands: a general-purpose register is its byte offset into
 * struct x86_cpu (AL is 0, AH 1, CL 8 ...; see X86_GPR8..64); every other
 * file's is its number (XMM3 is 3, ST1 1, MM2 2, CR4 4, FS is SEG_FS, ...).
 * base and index are byte offsets too; RIP is offset 128 (with disp already
 * including the instruction's length) and "none" is 136, which reads as 0.
 */
struct x86_insn {
    x86_exec_fn *exec;
    uint64_t imm;               /* first immediate, sign-extended as the instruction defines; branches: displacement
                                   relative to the start of this instruction */
    int64_t disp;               /* displacement of the memory operand */
    uint32_t imm2;              /* second immediate: ENTER's level, far pointer's selector */
    uint16_t mnemonic;          /* ZydisMnemonic */
    uint8_t length;             /* bytes, 1..15 */
    uint8_t shape;              /* enum x86_shape */
    uint8_t opsize;             /* effective operand size in bytes: 1, 2, 4, 8 (of the GPR or integer operation) */
    uint8_t addrsize;           /* 2, 4, 8 */
    uint8_t flags;              /* enum x86_insn_flags */
    uint8_t seg;                /* enum x86_seg of the memory operand, prefixes applied (string sources too) */
    uint8_t base, index, scale; /* memory operand: scale is a shift, 0..3 */
    uint8_t memsize_log2;       /* of the memory operand; 0 where it has no size or an odd one: see memsize */
    uint16_t memsize;           /* bytes the memory operand is wide */
    uint8_t r0, r1, r2;         /* register operands in Intel order (the memory operand not counted) */
    uint8_t r3;                 /* VEX is4 */
    uint8_t w0, w1;             /* widths in bytes of explicit operands 0 and 1 (MOVZX, MOVSX, CRC32 ...) */
    uint8_t arg;                /* for the semantic: condition code, ALU operation, table index ... */
    const void *native;         /* host-executed instructions: the stub, see x86/exec/native.h; imm is then its
                                   own, the packed operands */
};

/* Zydis's view during selection; opaque here so that only decoding code includes Zydis. */
struct x86_zydis;

/* A row of a semantics table: how a mnemonic is executed. `select` looks at the folded operands (and, if it must, at
 * Zydis's) and returns the function, or NULL: not implemented in this form (#UD). It may set in->arg, in->native and
 * add INSN_END. */
struct x86_op {
    uint16_t mnemonic; /* ZYDIS_MNEMONIC_* */
    uint8_t feature;   /* enum x86_feature */
    uint8_t arg;       /* copied to in->arg */
    x86_exec_fn *(*select)(struct x86_insn *in, const struct x86_zydis *zydis);
};

/* The semantics tables, one a file of x86/exec/, each ended by a row with mnemonic 0. */
extern const struct x86_op x86_ops_integer[]; /* exec/integer*.c: user-mode integer instructions */
extern const struct x86_op x86_ops_string[];  /* exec/string.c: MOVS, STOS, ..., INS, OUTS, REP */
extern const struct x86_op x86_ops_system[];  /* exec/system.c, exec/far.c: privileged and control transfers */
extern const struct x86_op x86_ops_fpu[];     /* exec/x87.c: x87 and MMX */
extern const struct x86_op x86_ops_vector[];  /* exec/simd.c: SSE to AVX2, AES, SHA, ... */
extern const struct x86_op x86_ops_xsave[];   /* exec/xsave.c: FXSAVE and XSAVE families, LDMXCSR, EMMS */

/* Decodes the instruction in bytes[0..size) for the mode. Returns its length; 0: it is longer than size (fetch more;
 * with size >= 15: #GP, too long). What cannot be decoded, or has no semantics, or an illegal LOCK, gets an exec
 * that raises #UD. Never fails otherwise. */
unsigned x86_decode(struct x86_insn *in, enum x86_mode mode, const uint8_t *bytes, unsigned size);

/* Has the decoded instruction no semantics (it raises #UD)? For tests that hold CPUID and the tables together. */
bool x86_insn_undefined(const struct x86_insn *in);

/* Text of an instruction for traces: Intel syntax, at most size bytes. */
void x86_disassemble(char *text, unsigned size, enum x86_mode mode, const uint8_t *bytes, unsigned length,
                     uint64_t rip);

#endif
