/*
 * pdpte.c: does the processor below this KVM leave PAE's page-directory-pointer entries as they are? A guest with PAE
 * paging turns paging off and on again, for which KVM loads the four entries anew: once it clears bit 5 of the one in
 * use before that, once it does not. No part of the monitor is in here, only KVM.
 *
 * Status 0: both times are well; 1: only the first is, since bit 5 has been set, which is reserved there (SDM vol. 3,
 * 4.4.1: #GP). QEMU 7.2 sets "accessed" in these entries as at other levels; nested-differs.txt names the tests that
 * see that.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define SIZE     0x10000
#define PDPT     0x1000
#define PD       0x2000
#define START    0x3000
#define TIMES    0x4000
#define ACCESSED 0x20

/* clang-format off */
static const unsigned char code[] = {
    0x0f, 0x20, 0xc0,                                     /* mov %cr0, %eax */
    0x0f, 0xba, 0xf8, 0x1f, 0x0f, 0x22, 0xc0,             /* btc $31, %eax; mov %eax, %cr0 */
    0x83, 0x25, 0x00, PDPT >> 8, 0x00, 0x00, ~ACCESSED & 0xff, /* andl $~ACCESSED, PDPT */
    0x0f, 0xba, 0xf8, 0x1f, 0x0f, 0x22, 0xc0,
    0xfe, 0x05, 0x00, TIMES >> 8, 0x00, 0x00,             /* incb TIMES */
    0x0f, 0xba, 0xf8, 0x1f, 0x0f, 0x22, 0xc0,
    0x0f, 0xba, 0xf8, 0x1f, 0x0f, 0x22, 0xc0,
    0xfe, 0x05, 0x00, TIMES >> 8, 0x00, 0x00,
    0xf4,                                                 /* hlt */
};
/* clang-format on */

static struct kvm_segment flat(unsigned short selector, unsigned char type)
{
    return (struct kvm_segment){
        .limit = ~0u, .selector = selector, .type = type, .present = 1, .db = 1, .s = 1, .g = 1};
}

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    unsigned char *ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const struct kvm_userspace_memory_region region = {.memory_size = SIZE, .userspace_addr = (unsigned long)ram};
    const struct kvm_regs regs = {.rip = START, .rflags = 2};
    volatile unsigned long long *pdpte = (void *)(ram + PDPT);
    const unsigned long long directory = 0x83; /* present, writable, 2 MiB from 0 on */
    struct kvm_sregs sregs;
    struct kvm_run *run;

    if (vcpu < 0 || ram == MAP_FAILED || ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0 ||
        ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) {
        perror("/dev/kvm");
        return 2;
    }
    *pdpte = PD | 1;
    memcpy(ram + PD, &directory, sizeof(directory));
    memcpy(ram + START, code, sizeof(code));
    sregs.cs = flat(8, 0xb);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(16, 3);
    sregs.idt.limit = 0; /* an exception ends the guest */
    sregs.cr0 = 0x80000011;
    sregs.cr3 = PDPT;
    sregs.cr4 = 0x20;
    run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED || ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0 ||
        ioctl(vcpu, KVM_RUN, 0) < 0) {
        perror("/dev/kvm");
        return 2;
    }
    printf("a PDPTE became %#llx; with it cleared before, and as it was, paging could be turned on %u times of 2\n",
           *pdpte, ram[TIMES]);
    if (run->exit_reason == KVM_EXIT_HLT && ram[TIMES] == 2)
        return 0;
    return run->exit_reason == KVM_EXIT_SHUTDOWN && ram[TIMES] == 1 && (*pdpte & ACCESSED) ? 1 : 2;
}
