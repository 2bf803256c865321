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

    OP(ROL, NONE, SHIFT_ROL, shift),
    OP(ROR, NONE, SHIFT_ROR, shift),
    OP(RCL, NONE, SHIFT_RCL, shift),
    OP(RCR, NONE, SHIFT_RCR, shift),
    OP(SHL, NONE, SHIFT_SHL, shift),
    OP(SHR, NONE, SHIFT_SHR, shift),
    OP(SAR, NONE, SHIFT_SAR, shift),
    OP(SHLD, NONE, SHIFT_SHL, double_shift),
    OP(SHRD, NONE, SHIFT_SHR, double_shift),

    OP(MUL, NONE, MULDIV_MUL, muldiv),
    OP(IMUL, NONE, MULDIV_IMUL, muldiv),
    OP(DIV, NONE, MULDIV_DIV, muldiv),
    OP(IDIV, NONE, MULDIV_IDIV, muldiv),

    OP(AAA, NONE, BCD_AAA, bcd),
    OP(AAS, NONE, BCD_AAS, bcd),
    OP(AAM, NONE, BCD_AAM, bcd),
    OP(AAD, NONE, BCD_AAD, bcd),
    OP(DAA, NONE, BCD_DAA, bcd),
    OP(DAS, NONE, BCD_DAS, bcd),
    OP(SALC, NONE, BCD_SALC, bcd),

    OP(BT, NONE, BIT_BT, bt),
    OP(BTS, NONE, BIT_BTS, bt),
    OP(BTR, NONE, BIT_BTR, bt),
    OP(BTC, NONE, BIT_BTC, bt),
    OP(BSF, NONE, SCAN_BSF, scan),
    OP(BSR, NONE, SCAN_BSR, scan),
    OP(TZCNT, BMI1, SCAN_TZCNT, scan),
    OP(LZCNT, ABM, SCAN_LZCNT, scan),
    OP(POPCNT, POPCNT, SCAN_POPCNT, scan),
    OP(CRC32, SSE4_2, 0, crc32),

    OP(ANDN, BMI1, BMI_ANDN, bmi),
    OP(BEXTR, BMI1, BMI_BEXTR, bmi),
    OP(BLSI, BMI1, BMI_BLSI, bmi),
    OP(BLSMSK, BMI1, BMI_BLSMSK, bmi),
    OP(BLSR, BMI1, BMI_BLSR, bmi),
    OP(BZHI, BMI2, BMI_BZHI, bmi),
    OP(MULX, BMI2, BMI_MULX, bmi),
    OP(PDEP, BMI2, BMI_PDEP, bmi),
    OP(PEXT, BMI2, BMI_PEXT, bmi),
    OP(RORX, BMI2, BMI_RORX, bmi),
    OP(SARX, BMI2, BMI_SARX, bmi),
    OP(SHLX, BMI2, BMI_SHLX, bmi),
    OP(SHRX, BMI2, BMI_SHRX, bmi),

    OP(XCHG, NONE, 0, xchg),
    OP(XADD, NONE, 0, xadd),
    OP(CMPXCHG, NONE, 0, cmpxchg),
    OP(CMPXCHG8B, CX8, 0, cmpxchg8b),
    OP(CMPXCHG16B, CX16, 0, cmpxchg16b),

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

    OP(LAHF, NONE, FLAG_OP_LAHF, flag),
    OP(SAHF, NONE, FLAG_OP_SAHF, flag),
    OP(CLC, NONE, FLAG_OP_CLC, flag),
    OP(STC, NONE, FLAG_OP_STC, flag),
    OP(CMC, NONE, FLAG_OP_CMC, flag),
    OP(CLD, NONE, FLAG_OP_CLD, flag),
    OP(STD, NONE, FLAG_OP_STD, flag),

    OP(NOP, NONE, 0, nop),
    OP(PAUSE, NONE, 0, pause),
    OP(ENDBR32, NONE, 0, nop),
    OP(ENDBR64, NONE, 0, nop),
    OP(PREFETCH, PREFETCHW, 0, nop),
    OP(PREFETCHW, PREFETCHW, 0, nop),
    OP(PREFETCHWT1, PREFETCHW, 0, nop),
    OP(PREFETCHNTA, SSE, 0, nop),
    OP(PREFETCHT0, SSE, 0, nop),
    OP(PREFETCHT1, SSE, 0, nop),
    OP(PREFETCHT2, SSE, 0, nop),
    OP(LFENCE, SSE2, 0, fence),
    OP(MFENCE, SSE2, 0, fence),
    OP(SFENCE, SSE, 0, fence),
    OP(CLFLUSH, CLFLUSH, 0, clflush),
    OP(CLFLUSHOPT, CLFLUSHOPT, 0, clflush),
    OP(CLWB, CLWB, 0, clflush),
    OP(RDRAND, RDRAND, 0, random),
    OP(RDSEED, RDSEED, 0, random),
    OP(UD0, NONE, 0, ud),
    OP(UD1, NONE, 0, ud),
    OP(UD2, NONE, 0, ud),

#define X(code, cc, test) OP(J##cc, NONE, code, jcc), OP(SET##cc, NONE, code, set), OP(CMOV##cc, CMOV, code, cmov),
    CONDITION_LIST(X)
#undef X

        {0},
};
