// Network namespaces that outlive their maker: bind mounts of /proc/thread-self/ns/net (ip-netns(8),
// network_namespaces(7)).
#pragma once

#include <functional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::runtime {

// Makes an empty namespace with its loopback interface up, kept alive by a bind mount at `path`, which must
// not exist. The calling thread stays where it is.
Result<void> make_network_namespace(const std::string& path);
// Unmounts and removes `path`; the namespace ends with its last process. No such path is success.
Result<void> remove_network_namespace(const std::string& path);
// Runs `work` on a thread of its own inside the namespace and waits for it. Sockets opened there belong to
// that namespace for good (setns(2)).
Result<void> run_in_network_namespace(const std::string& path, const std::function<Result<void>()>& work);
Result<void> run_in_network_namespace(const Fd& network_namespace, const std::string& name,
                                      const std::function<Result<void>()>& work);

}  // namespace godwit::runtime
