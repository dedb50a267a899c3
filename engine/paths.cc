#include "engine/paths.h"

namespace godwit::engine {

ContainerPaths container_paths(const std::string& root, const std::string& id) {
  const std::string directory = root + "/containers/" + id;
  return {.directory = directory,
          .record = directory + "/record.json",
          .log = directory + "/output.log",
          .plan = directory + "/after-commit"};
}
std::string runc_root(const std::string& root) {
  return root + "/runc";
}
std::string bundles_root(const std::string& root) {
  return root + "/bundles";
}
std::string network_root(const std::string& root) {
  return root + "/network";
}

}  // namespace godwit::engine
