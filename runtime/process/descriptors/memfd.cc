// memfd_create(2): files that live in memory. Their pages travel as a space of their own.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/process/descriptors.h"
#include "runtime/process/descriptors/target.h"

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace godwit::runtime {

Result<void> read_shared_memory(int fd, uint64_t id, bool memfd, const std::string& name,
                                model::SharedMemory& memory) {
  const std::string whose = memfd ? "memfd " + name : "shared memory " + std::to_string(id);
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail("stat", whose);
  memory.set_id(id);
  memory.set_size(static_cast<uint64_t>(status.st_size));
  if (!memfd) return {};
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) return fail("ask the seals of", whose, errno, "huge page files cannot be moved");
  memory.set_memfd(true);
  memory.set_name(name);
  memory.set_seals(static_cast<uint32_t>(seals));
  memory.set_create_flags((seals & F_SEAL_SEAL) != 0 ? 0 : MFD_ALLOW_SEALING);
  return {};
}

Result<Fd> make_memfd(const model::SharedMemory& memory) {
  const std::string& name = memory.memfd() ? memory.name() : "shared";
  // Made sealable always: the seals are put on last, and "none, and none to come" is a seal too.
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if ((memory.seals() & F_SEAL_EXEC) != 0) flags |= MFD_NOEXEC_SEAL;
  Fd fd(::memfd_create(name.c_str(), flags));
  if (!fd.valid()) return fail("make", "memfd " + name);
  if (::ftruncate(fd.get(), static_cast<off_t>(memory.size())) != 0)
    return fail("size", "memfd " + name + " to " + std::to_string(memory.size()));
  return fd;
}

Result<void> seal_memfd(int memfd, const model::SharedMemory& memory) {
  if (!memory.memfd() || memory.seals() == 0) return {};
  if (::fcntl(memfd, F_ADD_SEALS, memory.seals()) != 0) return fail("seal", "memfd " + memory.name());
  return {};
}

}  // namespace godwit::runtime
