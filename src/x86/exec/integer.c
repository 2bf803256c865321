/*
 * x86/exec/integer.c: the table of user-mode integer instructions.
 */
#include "x86/exec/integer.h"
#include "x86/zydis.h"

bool x86_is_gpr(const struct x86_zydis *zydis, unsigned i)
{
    switch (ZydisRegisterGetClass(zydis->op[i].reg.value)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return true;
    default:
        return false;
    }
}

bool x86_is_long(const struct x86_insn *in, const struct x86_zydis *zydis)
{
    return zydis->mode == MODE_LONG64 && in->opsize == 8;
}

#define OP(mnemonic, feature, arg, select)                                                                             \
    {                                                                                                                  \
        ZYDIS_MNEMONIC_##mnemonic, FEATURE_##feature, arg, x86_select_##select                                         \
    }
#define ALU(mnemonic) OP(mnemonic, NONE, ALU_##mnemonic, alu)

const struct x86_op x86_ops_integer[] = {
    ALU(ADD),
    ALU(OR),
    ALU(ADC),
    ALU(SBB),
    ALU(AND),
    ALU(SUB),
    ALU(XOR),
    ALU(CMP),
    ALU(TEST),
    OP(INC, NONE, UNARY_INC, unary),
    OP(DEC, NONE, UNARY_DEC, unary),
    OP(NEG, NONE, UNARY_NEG, unary),
    OP(NOT, NONE, UNARY_NOT, unary),
    OP(ADCX, ADX, 0, adcx),
    OP(ADOX, ADX, 0, adox),

    OP(MOV, NONE, 0, mov),
    OP(MOVNTI, SSE2, 0, mov),
    OP(MOVZX, NONE, 0, movzx),
    OP(MOVSX, NONE, 0, movsx),
    OP(MOVSXD, NONE, 0, movsx),
    OP(MOVBE, MOVBE, 0, movbe),
    OP(LEA, NONE, 0, lea),
    OP(BSWAP, NONE, 0, bswap),
    OP(XLAT, NONE, 0, xlat),
    OP(CBW, NONE, CONVERT_CBW, convert),
    OP(CWDE, NONE, CONVERT_CWDE, convert),
    OP(CDQE, NONE, CONVERT_CDQE, convert),
    OP(CWD, NONE, CONVERT_CWD, convert),
    OP(CDQ, NONE, CONVERT_CDQ, convert),
    OP(CQO, NONE, CONVERT_CQO, convert),

    OP(PUSH, NONE, 0, push),
    OP(POP, NONE, 0, pop),
    OP(PUSHA, NONE, 0, pusha),
    OP(PUSHAD, NONE, 0, pusha),
    OP(POPA, NONE, 0, popa),
    OP(POPAD, NONE, 0, popa),
    OP(ENTER, NONE, 0, enter),
    OP(LEAVE, NONE, 0, leave),

    OP(JMP, NONE, 0, jmp),
    OP(CALL, NONE, 0, call),
    OP(RET, NONE, 0, ret),
    OP(LOOP, NONE, LOOP_LOOP, loop),
    OP(LOOPE, NONE, LOOP_LOOPE, loop),
    OP(LOOPNE, NONE, LOOP_LOOPNE, loop),
    OP(JCXZ, NONE, LOOP_JCXZ, loop),
    OP(JECXZ, NONE, LOOP_JCXZ, loop),
    OP(JRCXZ, NONE, LOOP_JCXZ, loop),
    OP(BOUND, NONE, 0, bound),

#define X(code, cc, test) OP(J##cc, NONE, code, jcc), OP(SET##cc, NONE, code, set), OP(CMOV##cc, CMOV, code, cmov),
    CONDITION_LIST(X)
#undef X

        {0},
};
