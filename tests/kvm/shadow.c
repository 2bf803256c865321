/*
 * shadow.c: does the interrupt shadow of STI hold in a guest of this KVM? A guest of one NOP after another is put under
 * the shadow and KVM is asked to return when an interrupt could be taken: right is after the first NOP (SDM vol. 2,
 * STI), as the shadow covers it. No part of the monitor is in here, only KVM.
 *
 * Status 0: it holds; 1: it is lost. QEMU's VMRUN does not load the VMCB's interrupt shadow (APM vol. 2, 15.21.5), so
 * it is lost there whenever something interrupts the guest in it; nested-differs.txt names the tests that see that.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define SIZE  0x10000
#define START 0x1000

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    unsigned char *ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const struct kvm_userspace_memory_region region = {.memory_size = SIZE, .userspace_addr = (unsigned long)ram};
    const struct kvm_vcpu_events events = {.flags = KVM_VCPUEVENT_VALID_SHADOW,
                                           .interrupt.shadow = KVM_X86_SHADOW_INT_STI};
    struct kvm_regs regs = {.rip = START, .rflags = 0x202};
    struct kvm_sregs sregs;
    struct kvm_run *run;

    if (vcpu < 0 || ram == MAP_FAILED || ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0 ||
        ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) {
        perror("/dev/kvm");
        return 2;
    }
    memset(ram, 0x90, SIZE);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED || ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0 ||
        ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events) < 0) {
        perror("/dev/kvm");
        return 2;
    }
    run->request_interrupt_window = 1;
    if (ioctl(vcpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN ||
        ioctl(vcpu, KVM_GET_REGS, &regs) < 0) {
        printf("no interrupt window: exit %u\n", run->exit_reason);
        return 2;
    }
    printf("under STI's shadow an interrupt could be taken after %llu instructions: %s\n", regs.rip - START,
           regs.rip > START ? "the shadow holds" : "the shadow is lost");
    return regs.rip > START ? 0 : 1;
}
