// PageSink: stores batches of pages into the replica, straight from the link's receive buffer.
//
// Threads: apply() may be called from several threads at once for different batches; set_spaces() excludes
// apply(). A page is stored into writable mappings by process_vm_writev(2), into others through
// /proc/PID/mem, so that protections may be final from the start. A process that died is an error. Trust: a
// batch comes from the peer; anything out of bounds is an error of apply(), never a write elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "runtime/memory/address_space.h"
#include "runtime/memory/page_batch.h"

namespace godwit::runtime {

class PageSink {
 public:
  struct Space {
    SpaceKind kind = SpaceKind::kInvalid;
    uint64_t id = 0;
    pid_t host_pid = 0;  // kProcess
    int fd = -1;         // kSharedMemory; borrowed, open for writing
    // kProcess: where pages may be stored (ascending); empty: in any mapping of the process.
    std::vector<Range> allowed;
  };
  PageSink();
  ~PageSink();
  // Replaces the spaces that batches may name; called after each reconcile_memory.
  Result<void> set_spaces(const std::vector<Space>& spaces);
  // Checks and stores one batch. After an error the pages of its extents are undefined.
  Result<void> apply(std::span<const std::byte> batch);
  [[nodiscard]] uint64_t bytes_stored() const;

  // Keeps a list of where pages are stored in processes, from now on.
  void keep_list();
  // The list of one process since it was last taken, in any order.
  std::vector<Range> take_list(uint64_t space_id);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace godwit::runtime
