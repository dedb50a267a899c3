// Small files beside runc: what runc.cc and runc_placeholder.cc share.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace godwit::runtime {

inline constexpr size_t kStateBytesMax = size_t{8} << 20;

// Replaces a file at once for whoever reads it. Not durable: what runc knows ends with the machine anyway.
[[nodiscard]] Result<void> replace_file(const std::string& path, std::string_view text);

// A directory and its parents, for us alone.
[[nodiscard]] Result<void> make_private_directory(const std::string& path);

// A log file for one run of runc, removed with this object.
class RuncLog {
 public:
  explicit RuncLog(const std::string& directory);
  RuncLog(const RuncLog&) = delete;
  RuncLog& operator=(const RuncLog&) = delete;
  ~RuncLog();
  [[nodiscard]] const std::string& path() const { return path_; }
  // The last error it holds; empty if there is none.
  [[nodiscard]] std::string last_error() const;

 private:
  std::string path_;
};

}  // namespace godwit::runtime
