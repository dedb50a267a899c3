// States of a TCP socket: <linux/tcp.h> and <netinet/tcp.h> cannot both be included, and only the latter has
// them.
#pragma once

enum {
  TCP_ESTABLISHED = 1,
  TCP_SYN_SENT = 2,
  TCP_FIN_WAIT1 = 4,
  TCP_FIN_WAIT2 = 5,
  TCP_CLOSE = 7,
  TCP_LISTEN = 10,
};
