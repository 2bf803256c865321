/*
 * engine/kvm/routes.c: messages to the local APICs, and writes that do not end
 * KVM_RUN.
 *
 * KVM has one table of routes, set as a whole: GSI n below KVM_LEVEL_ROUTES is
 * the level-triggered vector 16 + n, there only so that KVM tells of its end (it
 * counts such GSIs in 8 bits); those above have an eventfd each (irqfd), for
 * sources that send the same message again and again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/kvm/kvm_internal.h"

#define MSI_ADDRESS   0xfee00000u
#define MSI_BROADCAST (0xffu << 12)
#define MSI_LEVEL     (1u << 15)
#define MSI_ASSERT    (1u << 14)

static struct kvm_msi to_msi(const struct x86_apic_message *m)
{
    return (struct kvm_msi){
        .address_lo = MSI_ADDRESS | (m->destination & 0xff) << 12 | (m->logical ? 1u << 2 : 0),
        .data =
            m->vector | (uint32_t)m->delivery << 8 | (m->level ? MSI_LEVEL : 0) | (m->assert_level ? MSI_ASSERT : 0),
    };
}

static struct kvm_irq_routing_entry entry(unsigned gsi, uint32_t address, uint32_t data)
{
    return (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = address, .data = data}};
}

/* With the lock held. */
static int set_routes(struct engine_vm *vm)
{
    struct {
        struct kvm_irq_routing header;
        struct kvm_irq_routing_entry entry[KVM_LEVEL_ROUTES + KVM_MSI_ROUTES];
    } routes = {.header.nr = 0};
    uint32_t *nr = &routes.header.nr;

    for (unsigned i = 0; i < KVM_LEVEL_ROUTES; i++)
        if (vm->level[i])
            routes.entry[(*nr)++] =
                entry(i, MSI_ADDRESS | MSI_BROADCAST, (KVM_FIRST_VECTOR + i) | MSI_LEVEL | MSI_ASSERT);
    for (unsigned i = 0; i < vm->routes; i++)
        routes.entry[(*nr)++] = entry(KVM_LEVEL_ROUTES + i, vm->route[i].msi.address_lo, vm->route[i].msi.data);
    return kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, &routes);
}

static void route_level(struct engine_vm *vm, uint8_t vector)
{
    lock_take(&vm->lock);
    if (!vm->level[vector - KVM_FIRST_VECTOR]) {
        vm->level[vector - KVM_FIRST_VECTOR] = true;
        set_routes(vm);
    }
    lock_drop(&vm->lock);
}

void kvm_signal(struct engine_vm *vm, const struct x86_apic_message *message)
{
    const struct kvm_msi msi = to_msi(message);

    if (message->level && message->delivery <= APIC_LOWEST && message->vector >= KVM_FIRST_VECTOR)
        route_level(vm, message->vector);
    kvm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

/* --- sources with a descriptor -------------------------------------------------------------- */

/* A new route for that message: its number, or -errno. */
static int add_route(struct engine_vm *vm, const struct kvm_msi *msi)
{
    const unsigned n = vm->routes;
    struct kvm_irqfd irqfd = {.gsi = KVM_LEVEL_ROUTES + n};
    int fd, rc;

    if (n == KVM_MSI_ROUTES)
        return -ENOSPC;
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    vm->route[n] = (struct kvm_route){*msi, fd};
    vm->routes++;
    rc = set_routes(vm);
    irqfd.fd = (uint32_t)fd;
    if (rc >= 0)
        rc = kvm_ioctl(vm->fd, KVM_IRQFD, &irqfd);
    if (rc >= 0)
        return (int)n;
    vm->routes--;
    close(fd);
    return rc;
}

/* The descriptor that sends the message, or -errno. */
static int route_fd(struct engine_vm *vm, unsigned *route, const struct kvm_msi *msi)
{
    struct kvm_route *r;
    struct kvm_msi old;
    int n, rc = 0;

    if (!*route) {
        n = add_route(vm, msi);
        if (n < 0)
            return n;
        *route = (unsigned)n + 1;
    }
    r = &vm->route[*route - 1];
    if (memcmp(&r->msi, msi, sizeof(*msi))) { /* the guest has written another one */
        old = r->msi;
        r->msi = *msi;
        rc = set_routes(vm);
        if (rc < 0)
            r->msi = old;
    }
    return rc < 0 ? rc : r->fd;
}

void kvm_signal_again(struct engine_vm *vm, unsigned *route, const struct x86_apic_message *message)
{
    const struct kvm_msi msi = to_msi(message);
    const uint64_t one = 1;
    int fd = -ENOSYS;

    if (kvm_host()->irqfd && !message->level) {
        lock_take(&vm->lock);
        fd = route_fd(vm, route, &msi);
        lock_drop(&vm->lock);
    }
    if (fd < 0 || write(fd, &one, sizeof(one)) != sizeof(one))
        kvm_signal(vm, message);
}

/* KVM lets go of them with the VM. */
void kvm_routes_free(struct engine_vm *vm)
{
    for (unsigned i = 0; i < vm->routes; i++)
        close(vm->route[i].fd);
}

/* --- doorbells ------------------------------------------------------------------------------------ */

int kvm_doorbell(struct engine_vm *vm, gpa_t gpa, int fd, bool on)
{
    const struct kvm_ioeventfd bell = {
        .addr = gpa, .fd = fd, .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN /* length 0: any */};

    return kvm_host()->ioeventfd ? kvm_ioctl(vm->fd, KVM_IOEVENTFD, &bell) : -ENOSYS;
}
