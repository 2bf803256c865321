/*
 * exec/native_internal.h: the stubs behind exec/native.h. A stub is a small
 * function in host code: it loads the guest's registers, executes the guest's
 * instruction (re-encoded to fixed registers and to [rdi] for memory), and
 * stores the results back. One stub serves every register combination of an
 * opcode, so there are only as many as there are opcodes and immediates.
 */
#ifndef X86_EXEC_NATIVE_INTERNAL_H
#define X86_EXEC_NATIVE_INTERNAL_H

#include <string.h>

#include "x86/exec/native.h"

enum x86_stub_kind { STUB_VECTOR, STUB_X87 };

enum x86_stub_flags {
    STUB_VEX = 1 << 0,
    STUB_FP = 1 << 1,    /* uses MXCSR: rounding, exceptions */
    STUB_FLAGS = 1 << 2, /* the return value holds RFLAGS results */
    STUB_MMX = 1 << 3,   /* has an MMX register operand */
    STUB_XMM = 1 << 4,   /* has an XMM register operand */
    STUB_LOAD = 1 << 5,  /* reads memory */
    STUB_STORE = 1 << 6, /* writes memory */
};

/* Vector: pointers to the buffer for the memory operand (64-byte aligned) and to the registers that ModRM.reg,
 * VEX.vvvv, ModRM.rm and is4 name: into cpu->fpu.xmm (the upper YMM half is found from there), cpu->fpu.st, or
 * cpu->gpr. Runs under cpu->fpu.mxcsr, every exception of which must be masked. x87: reg points to an FXSAVE image,
 * vvvv is the RFLAGS that FCMOVcc looks at. Returns RFLAGS. */
typedef uint64_t x86_stub_fn(void *mem, void *reg, void *vvvv, void *rm, struct x86_cpu *cpu, void *is4);

/* x87, the short way: only the stack registers that the instruction uses are loaded. st0 and other are copies of ST0
 * and of ST(i); control is FCW with every exception masked. Returns FSW, and RFLAGS in the upper half. */
typedef uint64_t x86_light_fn(void *mem, void *st0, void *other, uint64_t rflags, const uint16_t *control);

enum x86_light_codes { CODES_C1, CODES_ALL, CODES_NONE, CODES_FCOMI /* C1 on Intel's, none on AMD's */ };

/* How an x87 instruction uses the stack, if there is a short way. */
struct x86_light {
    uint8_t st0 : 1, other : 1; /* uses ST0; uses ST(index) */
    uint8_t pop : 2, push : 1;
    uint8_t codes : 2; /* enum x86_light_codes: condition codes that are results */
    uint8_t index;
};

struct x86_stub {
    x86_stub_fn *run;
    x86_light_fn *light; /* NULL: there is none */
    struct x86_light stack;
    uint16_t mnemonic;
    uint8_t memsize;
    uint8_t flags;
    uint8_t align;                 /* the memory operand's address must have none of these bits, else #GP(0) */
    uint8_t mmx_result;            /* 1 + position of an MMX register that is written; 0: none */
    uint8_t tiny_size, tiny_count; /* results that can underflow: bytes each, how many; 0: none */
    uint8_t tiny_position;         /* where they are; POSITION_MEM: in memory */
    uint8_t dot_size, imm;         /* a dot product: bytes of an element, immediate; else 0 */
};

enum x86_position { POSITION_REG, POSITION_VVVV, POSITION_RM, POSITION_IS4, POSITION_COUNT, POSITION_MEM };

/* Operands of a host-executed instruction, packed into in->imm by position, 16 bits each: the offset of the register
 * in struct x86_cpu, or OPERAND_MMX | its number. */
#define OPERAND_MMX 0x8000u
static inline unsigned x86_native_operand(const struct x86_insn *in, enum x86_position position)
{
    return (uint16_t)(in->imm >> (16 * position));
}

/* Host code being put together. */
struct x86_code {
    uint8_t bytes[160];
    unsigned length; /* past the end: overflowed, the code is no good */
    unsigned light;  /* where a second entry begins: x86_stub::light; 0: none */
};

/* Appends n bytes. */
static inline void x86_code_put(struct x86_code *code, const void *bytes, unsigned n)
{
    if (n <= sizeof(code->bytes) && code->length <= sizeof(code->bytes) - n)
        memcpy(code->bytes + code->length, bytes, n);
    code->length += n;
}

#define EMIT(code, ...) x86_code_put(code, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* A stub's identity: the re-encoded instruction and the kind. */
struct x86_stub_key {
    uint8_t bytes[7];
    uint8_t length : 4;
    uint8_t kind : 4;
};

/* The stub for a key; made by `make` and kept for the life of the process if it is new. NULL: make refused, or there
 * is no room or no executable memory. Any thread. */
typedef bool x86_stub_maker(const struct x86_stub_key *key, struct x86_stub *stub, struct x86_code *code);
const struct x86_stub *x86_stub_get(const struct x86_stub_key *key, x86_stub_maker *make);
/* Makers, and what they share: fills in what the executor has to know. */
bool x86_stub_make_vector(const struct x86_stub_key *key, struct x86_stub *stub, struct x86_code *code);
bool x86_stub_make_x87(const struct x86_stub_key *key, struct x86_stub *stub, struct x86_code *code);
void x86_stub_describe(struct x86_stub *stub, const struct x86_zydis *zydis);
/* How many there are, for tests. */
unsigned x86_stub_count(void);

/* The function that executes a vector stub. */
x86_exec_fn *x86_native_executor(const struct x86_stub *stub);
/* The stub of an x87 instruction, or NULL. */
const struct x86_stub *x86_native_x87_stub(const struct x86_insn *in, const struct x86_zydis *zydis);

#endif
