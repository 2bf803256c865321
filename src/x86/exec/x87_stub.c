/*
 * exec/x87_stub.c: stubs of x87 instructions. Each has the whole way (the guest's x87
 * state is loaded, the instruction executed, the state saved), which is right
 * always, and the frequent ones have a short way besides: only the registers that
 * they use are loaded. That is right if none of these is empty, the one pushed
 * onto is, and no unmasked exception is raised: exec/x87.c sees to it.
 */
#include <string.h>

#include "x86/exec/native_operand.h"

/* --- which have a short way ------------------------------------------------------------ */

#define ST0                                                                                                            \
    {                                                                                                                  \
        .st0 = 1                                                                                                       \
    }
#define POP                                                                                                            \
    {                                                                                                                  \
        .st0 = 1, .pop = 1                                                                                             \
    }
#define CMP                                                                                                            \
    {                                                                                                                  \
        .st0 = 1, .codes = CODES_ALL                                                                                   \
    }
#define CMPP                                                                                                           \
    {                                                                                                                  \
        .st0 = 1, .codes = CODES_ALL, .pop = 1                                                                         \
    }
#define PUSH                                                                                                           \
    {                                                                                                                  \
        .push = 1                                                                                                      \
    }
#define BOTH                                                                                                           \
    {                                                                                                                  \
        .st0 = 1, .other = 1                                                                                           \
    }
#define BCMOV                                                                                                          \
    {                                                                                                                  \
        .st0 = 1, .other = 1, .codes = CODES_NONE                                                                      \
    }
#define BCOMI                                                                                                          \
    {                                                                                                                  \
        .st0 = 1, .other = 1, .codes = CODES_FCOMI                                                                     \
    }
#define BCOMIP                                                                                                         \
    {                                                                                                                  \
        .st0 = 1, .other = 1, .codes = CODES_FCOMI, .pop = 1                                                           \
    }
#define BOTHP                                                                                                          \
    {                                                                                                                  \
        .st0 = 1, .other = 1, .pop = 1                                                                                 \
    }
#define BCMP                                                                                                           \
    {                                                                                                                  \
        .st0 = 1, .other = 1, .codes = CODES_ALL                                                                       \
    }
#define BCMPP                                                                                                          \
    {                                                                                                                  \
        .st0 = 1, .other = 1, .codes = CODES_ALL, .pop = 1                                                             \
    }
#define BCMPPP                                                                                                         \
    {                                                                                                                  \
        .st0 = 1, .other = 1, .codes = CODES_ALL, .pop = 2                                                             \
    }

/* With memory: by the opcode's low three bits and ModRM.reg. */
static const struct x86_light with_memory[8][8] = {
    {ST0, ST0, CMP, CMPP, ST0, ST0, ST0, ST0},  /* D8: single */
    {PUSH, {0}, ST0, POP},                      /* D9: FLD, FST, FSTP */
    {ST0, ST0, CMP, CMPP, ST0, ST0, ST0, ST0},  /* DA: dword integer */
    {PUSH, POP, ST0, POP, {0}, PUSH, {0}, POP}, /* DB: FILD, FISTTP, FIST, FISTP, FLD m80, FSTP m80 */
    {ST0, ST0, CMP, CMPP, ST0, ST0, ST0, ST0},  /* DC: double */
    {PUSH, POP, ST0, POP},                      /* DD: FLD, FISTTP, FST, FSTP */
    {ST0, ST0, CMP, CMPP, ST0, ST0, ST0, ST0},  /* DE: word integer */
    {PUSH, POP, ST0, POP, {0}, PUSH, {0}, POP}, /* DF: FILD, FISTTP, FIST, FISTP; qword */
};

/* With ST(i): the same. What is by ModRM.rm too is in singles[]. */
static const struct x86_light with_register[8][8] = {
    {BOTH, BOTH, BCMP, BCMPP, BOTH, BOTH, BOTH, BOTH},
    {{0}},
    {BCMOV, BCMOV, BCMOV, BCMOV},                    /* FCMOV */
    {BCMOV, BCMOV, BCMOV, BCMOV, {0}, BCOMI, BCOMI}, /* FCMOV, FUCOMI, FCOMI */
    {BOTH, BOTH, {0}, {0}, BOTH, BOTH, BOTH, BOTH},
    {{0}, {0}, {0}, {0}, BCMP, BCMPP}, /* FUCOM, FUCOMP */
    {BOTHP, BOTHP, {0}, {0}, BOTHP, BOTHP, BOTHP, BOTHP},
    {{0}, {0}, {0}, {0}, {0}, BCOMIP, BCOMIP}, /* FUCOMIP, FCOMIP */
};

static const struct {
    uint8_t opcode, first, last; /* ModRM */
    struct x86_light stack;
} singles[] = {
    {0xd9, 0xe0, 0xe1, ST0},    /* FCHS, FABS */
    {0xd9, 0xe4, 0xe5, CMP},    /* FTST, FXAM */
    {0xd9, 0xe8, 0xee, PUSH},   /* FLD1 and the other constants */
    {0xd9, 0xfa, 0xfa, ST0},    /* FSQRT */
    {0xd9, 0xfc, 0xfc, ST0},    /* FRNDINT */
    {0xda, 0xe9, 0xe9, BCMPPP}, /* FUCOMPP */
    {0xde, 0xd9, 0xd9, BCMPPP}, /* FCOMPP */
};

static struct x86_light find_light(uint8_t opcode, uint8_t modrm)
{
    struct x86_light stack;

    if (modrm < 0xc0)
        return with_memory[opcode & 7][modrm >> 3 & 7];
    for (unsigned i = 0; i < ARRAY_SIZE(singles); i++) {
        if (singles[i].opcode != opcode || modrm < singles[i].first || modrm > singles[i].last)
            continue;
        stack = singles[i].stack;
        stack.index = stack.other;
        return stack;
    }
    stack = with_register[opcode & 7][modrm >> 3 & 7];
    stack.index = modrm & 7;
    if (stack.codes == CODES_FCOMI)
        stack.codes = x86_host_is_intel() ? CODES_C1 : CODES_NONE;
    if (!stack.index && stack.other) {
        if (stack.pop) /* ST0 is the result's place and is popped */
            return (struct x86_light){0};
        stack.other = 0;
    }
    return stack;
}

/* --- code --------------------------------------------------------------------------------- */

static void emit_whole(struct x86_code *code, const struct x86_stub_key *key)
{
    EMIT(code, 0x48, 0x0f, 0xae, 0x0e); /* fxrstor64 [rsi] */
    EMIT(code, 0x52, 0x9d);             /* push rdx; popfq */
    x86_code_put(code, key->bytes, key->length);
    EMIT(code, 0x9c, 0x58);             /* pushfq; pop rax */
    EMIT(code, 0x48, 0x0f, 0xae, 0x06); /* fxsave64 [rsi]: does not wait */
    EMIT(code, 0xdb, 0xe3);             /* fninit: nothing pending is left */
    EMIT(code, 0xc3);
}

/* The registers used are ST0 and ST1 here; afterwards the stack is empty again. Exception flags that the instruction
 * before has left are cleared first. */
static void emit_light(struct x86_code *code, const struct x86_stub_key *key, struct x86_light stack)
{
    uint8_t modrm = key->bytes[1];

    if (modrm >= 0xc0 && stack.other)
        modrm = (uint8_t)((modrm & 0xf8) | 1);
    EMIT(code, 0xdf, 0xe0, 0xa8, 0x7f, 0x74, 2, 0xdb, 0xe2); /* fnstsw ax; test al, 0x7f; jz +2; fnclex */
    EMIT(code, 0x41, 0xd9, 0x28);                            /* fldcw [r8] */
    if (stack.other)
        EMIT(code, 0xdb, 0x2a); /* fld tbyte [rdx] */
    if (stack.st0)
        EMIT(code, 0xdb, 0x2e); /* fld tbyte [rsi] */
    EMIT(code, 0x51, 0x9d);     /* push rcx; popfq */
    EMIT(code, key->bytes[0], modrm);
    EMIT(code, 0x9c, 0x59); /* pushfq; pop rcx */
    EMIT(code, 0xdf, 0xe0); /* fnstsw ax */
    if (stack.push || !stack.pop)
        EMIT(code, 0xdb, 0x3e); /* fstp tbyte [rsi] */
    if (stack.other && stack.pop < 2)
        EMIT(code, 0xdb, 0x3a); /* fstp tbyte [rdx] */
    EMIT(code, 0x0f, 0xb7, 0xc0, 0x48, 0xc1, 0xe1, 0x20, 0x48, 0x09,
         0xc8);                                                 /* movzx eax, ax; shl rcx, 32; or rax, rcx */
    EMIT(code, 0x68, 0x7f, 0x03, 0, 0, 0xd9, 0x2c, 0x24, 0x59); /* push FCW_INIT; fldcw [rsp]; pop rcx */
    EMIT(code, 0xc3);
}

bool x86_stub_make_x87(const struct x86_stub_key *key, struct x86_stub *stub, struct x86_code *code)
{
    const ZydisDecodedOperand *memory;
    struct x86_zydis zydis;

    if (!x86_stub_decode(key, &zydis))
        return false;
    memory = x86_operand_memory(&zydis);
    if (memory && (!x86_stub_memory_allowed(memory) || memory->size > 80))
        return false;
    stub->mnemonic = (uint16_t)zydis.insn.mnemonic;
    if (memory) {
        stub->memsize = (uint8_t)(memory->size / 8);
        stub->flags |= x86_operand_writes(memory) ? STUB_STORE : STUB_LOAD;
    }
    emit_whole(code, key);
    stub->stack = find_light(key->bytes[0], key->bytes[1]);
    if (stub->stack.st0 || stub->stack.push) {
        code->light = code->length;
        emit_light(code, key, stub->stack);
    }
    return true;
}
