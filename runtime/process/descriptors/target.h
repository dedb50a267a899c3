// Makers of the target side, one per kind of object. A snapshot that validate_descriptions() has passed is
// what they are given; whatever they are told is then the kernel's to refuse.
#pragma once

#include <string>
#include <utility>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/process/after_commit.pb.h"
#include "runtime/process/faults.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

inline constexpr uint32_t kDescriptorNumberMax = 1U << 20;

// Pure check of Snapshot.descriptions and of all descriptors that name them.
[[nodiscard]] Result<void> validate_descriptions(const model::Snapshot& snapshot);

Result<Fd> make_file(int root, uint32_t flags, const model::RegularFile& file);
// Position and locks, on the final object.
Result<void> settle_file(int fd, const model::RegularFile& file);
Result<Fd> make_device(int root, uint32_t flags, const model::DeviceNode& device);
// Both ends of a pipe (read, write); of a named one, whichever end is asked for is opened again from it.
Result<std::pair<Fd, Fd>> make_pipe(int root, const model::Pipe& pipe);
Result<void> settle_pipe(int write_end, const model::Pipe& pipe);
Result<Fd> make_event_counter(const model::EventCounter& counter);
Result<Fd> make_timer(const model::TimerDescriptor& timer);
Result<Fd> make_signal(const model::SignalDescriptor& signal);
Result<Fd> make_memfd(const model::SharedMemory& memory);
// Seals, when the contents are final.
Result<void> seal_memfd(int memfd, const model::SharedMemory& memory);
Result<Fd> make_log(const std::string& path, uint32_t flags);

// To be called inside the container's network namespace. A listener or an unconnected socket is complete;
// a connected one comes in repair mode.
Result<Fd> make_tcp(const model::TcpSocket& tcp);
// What finish_tcp() needs of a socket that make_tcp() has made.
[[nodiscard]] Result<model::Connection> plan_of_tcp(int socket, const model::TcpSocket& tcp);
// Leaves repair mode with a window probe, and sends what was never sent. Every step is taken whatever becomes
// of the others. May be repeated as long as the processes have not run: what has been done is not done again.
void finish_tcp(int socket, const model::TcpSocket& tcp, Faults& faults);
[[nodiscard]] bool is_connected(const model::TcpSocket& tcp);
Result<Fd> make_udp(const model::UdpSocket& udp);
// Options, and the queue (sent through the peer's end, -1 if there is none).
Result<void> settle_unix(int socket, int peer, const model::UnixSocket& model);
// Directions that were shut down; when the queues of both ends are filled.
Result<void> shut_unix(int socket, const model::UnixSocket& model);

}  // namespace godwit::runtime
