/*
 * gate.c: call gates with and without a change of ring, far returns (SDM vol.
 * 3, 5.8; AMD APM vol. 2, 4.11).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define GATE FREE_SEL /* 16 bytes in long */

extern char trap_stack_top[];

/* An indirect far call through the pointer at bx, its offset ignored. */
CODE(code_call, "lcall *(" BX ")\n int $0x80");
CODE(code_jump, "ljmp *(" BX ")\n int $0x80");
CODE(code_end, "int $0x81");

static struct context user_at(const char *code, word size)
{
    struct context c;

    user_init();
    memcpy((void *)USER_CODE, code, size);
    *(uint32_t *)USER_DATA = 0xdeadbeef;
    *(uint16_t *)(USER_DATA + 4) = GATE | 3;
    c = user_context(USER_CODE);
    c.bx = USER_DATA;
    return c;
}
#define USER(code) user_at(code, CODE_SIZE(code))

/* Into ring 0: the stack from the TSS, SS:SP and CS:IP of the caller on it. */
TEST(gate_call)
{
    struct context c = USER(code_call);
    word *frame, caller_sp = c.sp;

    gdt_set_gate(GATE, (word)code_end, KCODE, ACC_CALL_GATE | ACC_USER, 0);
    context_run(&c);
    EXPECT_END(&c, 0x81);
    EXPECT_EQ(c.ip, (word)code_end + 2);
    EXPECT_EQ(c.cs, KCODE);
    EXPECT_EQ(c.ss, LONG_MODE ? 0 : KDATA); /* long: null, with the new CPL as RPL */
    EXPECT_EQ(c.sp, (word)trap_stack_top - 4 * sizeof(word));
    frame = (word *)c.sp;
    EXPECT_EQ(frame[0], USER_CODE + 2);
    EXPECT_EQ(frame[1] & 0xffff, UCODE);
    EXPECT_EQ(frame[2], caller_sp);
    EXPECT_EQ(frame[3] & 0xffff, UDATA);
}

/* And back, with RET. */
CODE(code_return, "lret" W);
TEST(gate_return)
{
    struct context c = USER(code_call);
    word caller_sp = c.sp;

    gdt_set_gate(GATE, (word)code_return, KCODE, ACC_CALL_GATE | ACC_USER, 0);
    c.flags |= FL_CF | FL_DF;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ip, USER_CODE + 4);
    EXPECT_EQ(c.cs, UCODE);
    EXPECT_EQ(c.ss, UDATA);
    EXPECT_EQ(c.sp, caller_sp);
    EXPECT_EQ(c.flags, FL_1 | FL_CF | FL_DF);
}

TEST(gate_checks)
{
    static const struct {
        unsigned access, target, code_access;
        word vector, error;
    } rows[] = {
        {ACC_CALL_GATE, KCODE, 0, GP, GATE}, /* DPL 0 */
        {(ACC_CALL_GATE | ACC_USER) & ~ACC_P, KCODE, 0, NP, GATE},
        {ACC_CALL_GATE | ACC_USER, 0, 0, GP, 0},
        {ACC_CALL_GATE | ACC_USER, KDATA, 0, GP, KDATA},
        {ACC_CALL_GATE | ACC_USER, GDT_SIZE, 0, GP, GDT_SIZE},
        {ACC_CALL_GATE | ACC_USER, GATE + 0x20, ACC_CODE & ~ACC_P, NP, GATE + 0x20},
        {ACC_CALL_GATE16 | ACC_USER, KCODE, 0, LONG_MODE ? GP : 0, GATE}, /* 16 bits: not in long mode */
    };

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = USER(code_call);

        if (!rows[i].vector)
            continue;
        gdt_set(GATE + 0x20, 0, 0xfffff, rows[i].code_access, LONG_MODE ? FLAG_G | FLAG_L : FLAG_G | FLAG_D);
        gdt_set_gate(GATE, (word)code_end, rows[i].target, rows[i].access, 0);
        context_run(&c);
        EXPECT_END_ERROR(&c, rows[i].vector, rows[i].error);
        EXPECT_EQ(c.ip, USER_CODE);
        EXPECT_EQ(c.sp, user_context(0).sp);
    }
}

/* JMP through a gate may not change the ring, CALL within the ring pushes no stack. */
TEST(gate_same_ring)
{
    struct context c = USER(code_jump), k = kernel_context((word)code_call);
    word sp = k.sp;

    gdt_set_gate(GATE, (word)code_end, KCODE, ACC_CALL_GATE | ACC_USER, 0);
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, KCODE);
    k.bx = USER_DATA;
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(k.sp, sp - 2 * sizeof(word));
    EXPECT_EQ(*(word *)k.sp, (word)code_call + 2);
    k = kernel_context((word)code_jump);
    k.bx = USER_DATA;
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(k.sp, sp);
}

/* Far return to ring 3 takes the stack from the frame; to an inner ring it is refused. */
CODE(code_far_return, "lret" W);
TEST(gate_far_return_outward)
{
    struct context k = kernel_context((word)code_far_return);
    word *frame;

    user_init();
    PLACE(USER_CODE, code_end);
    idt_set_access(0x81, ACC_INT_GATE | ACC_USER);
    k.sp -= 4 * sizeof(word);
    frame = (word *)k.sp;
    frame[0] = USER_CODE;
    frame[1] = UCODE;
    frame[2] = USER_STACK + 0x400;
    frame[3] = UDATA;
    k.ds = KDATA;
    k.es = UDATA;
    k.sp = (word)frame;
    context_run(&k);
    EXPECT_END(&k, 0x81);
    EXPECT_EQ(k.cs, UCODE);
    EXPECT_EQ(k.ss, UDATA);
    EXPECT_EQ(k.sp, USER_STACK + 0x400);
    EXPECT_EQ(k.ds, 0); /* the kernel's segment is taken away */
    EXPECT_EQ(k.es, UDATA);
}

#ifndef __x86_64__

/* Parameters are copied from stack to stack, and dropped from both by RET n. */
CODE(code_call_with, "push $0x33\n push $0x22\n push $0x11\n lcall *(%ebx)\n int $0x80");
CODE(code_parameters, "mov 8(%esp), %eax\n mov 12(%esp), %ecx\n mov 16(%esp), %edx\n lret $12");
TEST(gate_parameters)
{
    struct context c = USER(code_call_with);
    word sp = c.sp;

    gdt_set_gate(GATE, (word)code_parameters, KCODE, ACC_CALL_GATE | ACC_USER, 3);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 0x11);
    EXPECT_EQ(c.cx, 0x22);
    EXPECT_EQ(c.dx, 0x33);
    EXPECT_EQ(c.sp, sp);
}

/* Gates of 16 bits push words: FLAGS, CS, IP. All of it lies below 64 KiB, for the sake of IP. */
CODE(code_int_16, "int $0x90\n mov %esp, %edi\n int $0x80");
CODE(code_handler_16, "mov %esp, %esi\n mov (%esp), %eax\n movzwl 4(%esp), %ecx\n .byte 0x66\n iret");
CODE(code_return_16, "mov %esp, %esi\n lretw");
TEST(gate_16_bit)
{
    const word low = 0x7000;
    struct context k = kernel_context(low);
    word sp = k.sp;

    PLACE(low, code_int_16);
    PLACE(low + 0x100, code_handler_16);
    idt_set(0x90, low + 0x100, KCODE, ACC_INT_GATE16, 0);
    k.flags = FL_1 | FL_IF | FL_CF;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.si, sp - 6);
    EXPECT_EQ(k.ax, KCODE << 16 | (low + 2));
    EXPECT_EQ(k.cx, FL_1 | FL_IF | FL_CF);
    EXPECT_EQ(k.di, sp);
    EXPECT_EQ(k.flags, FL_1 | FL_IF | FL_CF);
    /* And a call gate. */
    PLACE(low, code_call);
    *(uint16_t *)(USER_DATA + 4) = GATE;
    gdt_set_gate(GATE, (word)low + 0x100, KCODE, ACC_CALL_GATE16, 0);
    PLACE(low + 0x100, code_return_16);
    k = kernel_context(low);
    k.bx = USER_DATA;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.si, sp - 4);
    EXPECT_EQ(k.sp, sp);
}

#endif
