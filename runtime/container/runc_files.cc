#include "runtime/container/runc_files.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/fd.h"
#include "runtime/container/last_words.h"

namespace godwit::runtime {

Result<void> replace_file(const std::string& path, std::string_view text) {
  const std::string fresh = path + ".new";
  {
    // Whatever a crash left under that name is not written through.
    ::unlink(fresh.c_str());
    GODWIT_ASSIGN(const Fd created, open_file(fresh, O_WRONLY | O_CREAT | O_EXCL, 0600));
  }
  GODWIT_TRY(write_file(fresh, text));
  if (::rename(fresh.c_str(), path.c_str()) != 0) return fail("rename", fresh);
  return {};
}

Result<void> make_private_directory(const std::string& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (!code) std::filesystem::permissions(path, std::filesystem::perms::owner_all, code);
  if (code) return fail("create", path, code.value());
  return {};
}

RuncLog::RuncLog(const std::string& directory) {
  static std::atomic<unsigned> serial{0};
  path_ = directory + "/runc-" + std::to_string(::getpid()) + "-" + std::to_string(serial++) + ".log";
}

RuncLog::~RuncLog() {
  ::unlink(path_.c_str());
}

std::string RuncLog::last_error() const {
  const auto text = read_file(path_);
  if (!text) return {};
  std::istringstream lines(*text);
  std::string error;
  for (std::string line; std::getline(lines, line);) {
    const auto record = nlohmann::json::parse(line, nullptr, false);
    if (!record.is_object() || !record.contains("level")) continue;
    if (record["level"] == "error" || record["level"] == "fatal") error = last_words(line);
  }
  return error;
}

}  // namespace godwit::runtime
