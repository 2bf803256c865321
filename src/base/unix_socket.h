/* base/unix_socket.h: stream sockets with a name in the file system. */
#ifndef BASE_UNIX_SOCKET_H
#define BASE_UNIX_SOCKET_H

#include "base/error.h"

/* A non-blocking listening socket at path, for this user alone; a socket file that nobody listens on is replaced.
 * option begins the message of an error. Returns the descriptor or a negative errno. */
int unix_socket_listen(const char *option, const char *path, struct error *err);
/* A non-blocking connection to path: the descriptor, or a negative errno. */
int unix_socket_connect(const char *path);
/* Closes what unix_socket_listen made and removes its file. */
void unix_socket_unlisten(int fd, const char *path);

#endif
