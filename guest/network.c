/* guest/network.c: the card's addresses, if the command line says that it is in user mode. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

#define CARD "eth0"

static void put_address(struct sockaddr *to, const char *text)
{
    struct sockaddr_in in = {.sin_family = AF_INET};

    inet_pton(AF_INET, text, &in.sin_addr);
    memcpy(to, &in, sizeof(in));
}

static int set_address(int fd, unsigned long what, const char *text)
{
    struct ifreq request = {.ifr_name = CARD};

    put_address(&request.ifr_addr, text);
    return ioctl(fd, what, &request);
}

static int raise_interface(int fd, const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};

    strcpy(request.ifr_name, name);
    return ioctl(fd, SIOCSIFFLAGS, &request);
}

static int add_gateway(int fd, const char *text)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};

    put_address(&route.rt_dst, "0.0.0.0");
    put_address(&route.rt_genmask, "0.0.0.0");
    put_address(&route.rt_gateway, text);
    return ioctl(fd, SIOCADDRT, &route);
}

/* The addresses libslirp gives by DHCP too (backend/net/net.h). */
void guest_set_up_network(bool user_mode)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), file;

    if (fd < 0)
        return;
    raise_interface(fd, "lo");
    if (user_mode && set_address(fd, SIOCSIFADDR, "10.0.2.15") == 0) {
        if (set_address(fd, SIOCSIFNETMASK, "255.255.255.0") < 0 || raise_interface(fd, CARD) < 0 ||
            add_gateway(fd, "10.0.2.2") < 0)
            guest_say("network: %s", strerror(errno));
        unlink("/etc/resolv.conf"); /* the host's may lead elsewhere */
        file = open("/etc/resolv.conf", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (file >= 0) {
            dprintf(file, "nameserver 10.0.2.3\n");
            close(file);
        }
    }
    close(fd);
}
