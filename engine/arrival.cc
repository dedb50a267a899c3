#include "engine/arrival.h"

#include "base/fd.h"

namespace godwit::engine {
namespace {
constexpr size_t kSessionBytesMax = 256;
std::string arrival_path(const ContainerPaths& paths) {
  return paths.directory + "/arrival";
}
}  // namespace

Result<void> write_arrival(const ContainerPaths& paths, const std::string& session) {
  return replace_file_durably(arrival_path(paths), session);
}

Result<std::string> read_arrival(const ContainerPaths& paths) {
  return read_file(arrival_path(paths), kSessionBytesMax);
}

}  // namespace godwit::engine
