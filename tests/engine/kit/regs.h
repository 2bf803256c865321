/* regs.h: names for CODE() pieces that serve both images. */
#ifndef KIT_REGS_H
#define KIT_REGS_H

#ifdef __x86_64__
#define REG(x)  "%r" x
#define WORD    8
#define NAME(x) "r" x
#else
#define REG(x)  "%e" x
#define WORD    4
#define NAME(x) "e" x
#endif
#define AX  REG("ax")
#define CX  REG("cx")
#define DX  REG("dx")
#define BX  REG("bx")
#define SP  REG("sp")
#define BP_ REG("bp")
#define SI  REG("si")
#define DI  REG("di")

/* Within asm() templates and clobbers. */
#define SP_NAME NAME("sp")
#define SI_NAME NAME("si")

#define STRING(x)  STRING_(x)
#define STRING_(x) #x

/* Pops the address of the label 771 into a register: CALL_HERE "%eax\n lea 1f - 771b(%eax), %eax\n". */
#define CALL_HERE "call 771f\n 771: pop "

#endif
