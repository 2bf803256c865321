/* first.S: a multiboot 1 guest whose first instructions end it, with status 0: how long does a monitor take to get there? */
    .text
    .long 0x1badb002, 0, -0x1badb002 /* in the file's first 8 KiB */
    .globl _start
_start:
    xorl %eax, %eax
    outb %al, $0xf4
1:  hlt
    jmp 1b
    .section .note.GNU-stack, "", @progbits
