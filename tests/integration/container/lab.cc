#include "tests/integration/container/lab.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/clock.h"
#include "base/command.h"
#include "base/fd.h"

namespace godwit::runtime {
namespace {

// Every hierarchy's directory of this lab's agent.
std::vector<std::filesystem::path> cgroups_named(const std::string& name) {
  std::vector<std::filesystem::path> found;
  std::error_code code;
  for (const auto& hierarchy : std::filesystem::directory_iterator("/sys/fs/cgroup", code))
    if (std::filesystem::exists(hierarchy.path() / name, code)) found.push_back(hierarchy.path() / name);
  return found;
}

}  // namespace

void ContainerLab::SetUp() {
  if (::geteuid() != 0) GTEST_SKIP() << "containers need root";
  // Orphans of runc come to us, as they do to an agent.
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
  std::string pattern = std::filesystem::temp_directory_path() / "godwit-lab-XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  directory_ = pattern;
  host_ = "test" + std::to_string(::getpid());
  runc_ = Runc(directory_ + "/runc", directory_ + "/bundles", host_);
}

void ContainerLab::TearDown() {
  if (directory_.empty()) return;
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(directory_ + "/runc", code)) {
    const auto removed = runc_.remove(entry.path().filename(), true);
    EXPECT_TRUE(removed) << removed.error().to_string();
  }
  while (::waitpid(-1, nullptr, WNOHANG) > 0) continue;
  for (const auto& cgroup : cgroups_named("godwit-" + host_)) EXPECT_EQ(::rmdir(cgroup.c_str()), 0) << cgroup;
  std::filesystem::remove_all(directory_, code);
  EXPECT_FALSE(code) << code.message();
}

std::string ContainerLab::make_bundle(const std::string& kind, const std::vector<std::string>& options) {
  static int serial = 0;
  std::string path = directory_ + "/bundle" + std::to_string(serial++);
  Command command;
  command.arguments = {BUNDLE_TOOL, kind, path};
  command.arguments.insert(command.arguments.end(), options.begin(), options.end());
  command.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  const auto outcome = run_command(command);
  EXPECT_TRUE(outcome && outcome->exit_status == 0)
      << (outcome ? outcome->errors : outcome.error().to_string());
  return path;
}

ContainerSpec ContainerLab::spec(const std::string& id, const std::string& bundle) const {
  ContainerSpec made;
  made.id = id;
  made.bundle = bundle;
  made.log_path = directory_ + "/log";
  return made;
}

std::string ContainerLab::status_line(pid_t pid, const std::string& key) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":\t")) return line.substr(key.size() + 2);
  return {};
}

std::string ContainerLab::log() const {
  return read_file(directory_ + "/log").value_or("");
}

}  // namespace godwit::runtime
