// PageWriters: the threads that take batches from the link and store them in the replica.
//
// A batch carries its round (round_prefix.h). It is stored once open_round() has said that the layout of that
// round is in place; until then its writer waits, and with it, by credits, the source.
// Threads: all functions may be called from the session's thread; stop() joins.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/memory/page_sink.h"
#include "transport/link.h"

namespace godwit::engine {

class PageWriters {
 public:
  PageWriters(transport::LinkReceiver& link, runtime::PageSink& sink);
  PageWriters(const PageWriters&) = delete;
  PageWriters& operator=(const PageWriters&) = delete;
  ~PageWriters();

  Result<void> start(unsigned threads);
  // The layout of `round` is in place: its batches may be stored. `urgent`: the container is frozen, so its
  // writers take all the processor time they need.
  void open_round(uint32_t round, bool urgent);
  // Waits until `batches` of this round are stored.
  Result<void> wait_stored(uint32_t round, uint64_t batches, int64_t deadline_ns);
  // Ends the link and the threads.
  void stop();

  // Readable once a writer has failed; the failure.
  [[nodiscard]] int failure_fd() const { return failed_.get(); }
  Result<void> failure() const;

 private:
  void work();
  Result<void> store(const transport::LinkReceiver::Batch& batch);
  Result<bool> wait_open(uint32_t round);  // whether it is urgent
  void fail_all(const Error& error);

  transport::LinkReceiver& link_;
  runtime::PageSink& sink_;
  std::vector<std::thread> threads_;
  std::vector<pid_t> tids_;  // of them, under mutex_
  Fd failed_;                // eventfd(2)

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Under mutex_.
  bool stopping_ = false;
  int64_t open_round_ = -1;
  bool urgent_ = false;
  uint64_t stored_ = 0;  // batches of the open round
  std::optional<Error> error_;
};

}  // namespace godwit::engine
