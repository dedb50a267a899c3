// The unread datagrams of a UDP socket: looked at where they lie, and put into the queue of a socket that has
// been made anew.
//
// To put one back, its packet is built and handed to the container's own network stack by a raw socket: with
// the sender's address in it, whoever that is, to an address of the container, so that it goes by loopback.
// It is the output route that decides there, so no check of where a packet may come from stands in the way,
// and to the program (IP_PKTINFO) it came by the interface that has the address. TTL and TOS are not kept.
#pragma once

#include <google/protobuf/repeated_field.h>

#include "base/result.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

using Datagrams = google::protobuf::RepeatedPtrField<model::UdpSocket::Datagram>;

// All of them, oldest first; they stay. While it works, the socket has another SO_PEEK_OFF, and nobody else
// may use it. An error that an ICMP message left is taken by it, as if that message had been lost. An empty
// datagram that somebody has peeked at before is invisible from then on (a rule of SO_PEEK_OFF).
[[nodiscard]] Result<Datagrams> peek_datagrams(int socket);

// On a thread in the socket's network namespace, whose loopback must let datagrams pass; `socket` is bound,
// not connected, and empty, and has the options of `udp`. Ends when all are in the queue.
Result<void> put_datagrams(int socket, const model::UdpSocket& udp);

}  // namespace godwit::runtime
