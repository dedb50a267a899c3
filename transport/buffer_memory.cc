#include "transport/buffer_memory.h"

#include <sys/mman.h>

#include <string>

namespace godwit::transport {

Result<BufferMemory> BufferMemory::create(size_t size) {
  const std::string name = std::to_string(size) + " bytes for the buffers of a link";
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail("map", name);
  BufferMemory made({static_cast<std::byte*>(memory), size});
  if (::madvise(memory, size, MADV_DONTFORK) != 0) return fail("keep from children", name);
  // Huge pages make the copies cheaper where the kernel has them; without them nothing changes but the speed.
  static_cast<void>(::madvise(memory, size, MADV_HUGEPAGE));
  // MADV_POPULATE_WRITE reports a lack of memory as an error instead of a signal (Linux 5.14).
  if (::madvise(memory, size, MADV_POPULATE_WRITE) != 0) return fail("populate", name);
  return made;
}

BufferMemory::~BufferMemory() {
  if (!memory_.empty()) ::munmap(memory_.data(), memory_.size());
}

}  // namespace godwit::transport
