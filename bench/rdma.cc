// One end of an RDMA link that moves a given amount and says how fast: for bench/rdma, which runs it beside
// ib_write_bw between the same two ends.
//
//   bench_rdma target ADDRESS PORT_FILE            listens, writes port and token there, receives
//   bench_rdma source ADDRESS PORT_FILE LOCAL MIB  connects from LOCAL, sends, prints MiB/s
//
// Both use buffers of 1 MiB, as migrations do. The target releases batches unread, as ib_write_bw does.
#include <cstdio>
#include <iostream>
#include <string>

#include "base/clock.h"
#include "base/fd.h"
#include "transport/rdma/rdma_link.h"

namespace godwit::transport {
namespace {

constexpr int64_t kDeadlineNs = 300'000'000'000;
constexpr uint32_t kBufferBytes = 1U << 20;

Result<void> receive(const std::string& address, const std::string& port_file) {
  GODWIT_ASSIGN(RdmaLinkListener listener, RdmaLinkListener::listen(address));
  GODWIT_TRY(replace_file_durably(port_file, std::to_string(listener.port()) + "\n" + listener.token()));
  GODWIT_ASSIGN(const auto link, listener.accept(monotonic_ns() + kDeadlineNs));
  link->set_deadline_ns(monotonic_ns() + kDeadlineNs);
  for (;;) {
    GODWIT_ASSIGN(const auto batch, link->receive());
    if (!batch) return {};
    GODWIT_TRY(link->release(*batch));
  }
}

Result<void> send(LinkSender& link, uint64_t batches) {
  for (uint64_t i = 0; i < batches; ++i) {
    GODWIT_ASSIGN(const auto buffer, link.acquire(0));
    GODWIT_TRY(link.submit(buffer, kBufferBytes));
  }
  return link.barrier(0);
}

Result<void> send_and_measure(const std::string& address, const std::string& port_file,
                              const std::string& local, uint64_t batches) {
  GODWIT_ASSIGN(const std::string text, read_file(port_file));
  const size_t end = text.find('\n');
  if (end == std::string::npos) return refuse("read", port_file, "it holds no port and token");
  const auto port = static_cast<uint16_t>(std::strtoul(text.c_str(), nullptr, 10));
  GODWIT_ASSIGN(const auto link, connect_rdma_link(address, port, text.substr(end + 1),
                                                   {.streams = 1, .buffer_bytes = kBufferBytes},
                                                   monotonic_ns() + kDeadlineNs, local));
  link->set_deadline_ns(monotonic_ns() + kDeadlineNs);
  GODWIT_TRY(send(*link, 2));  // what is paid once is paid
  const int64_t begun_ns = monotonic_ns();
  GODWIT_TRY(send(*link, batches));
  std::printf("%.2f\n", static_cast<double>(batches) * 1e9 / static_cast<double>(monotonic_ns() - begun_ns));
  return {};
}

}  // namespace
}  // namespace godwit::transport

int main(int argc, char** argv) {
  using godwit::transport::receive;
  using godwit::transport::send_and_measure;
  const std::string role = argc > 1 ? argv[1] : "";
  godwit::Result<void> done;
  if (role == "target" && argc == 4)
    done = receive(argv[2], argv[3]);
  else if (role == "source" && argc == 6)
    done = send_and_measure(argv[2], argv[3], argv[4], std::strtoul(argv[5], nullptr, 10));
  else
    done = godwit::refuse("run", "bench_rdma", "called wrongly: see bench/rdma.cc");
  if (done) return 0;
  std::cerr << "bench_rdma: " << done.error().to_string() << "\n";
  return 1;
}
