// A place for one test's containers: directories, cgroups and containers that go when the test ends, however
// it ends.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "runtime/container/container.h"

namespace godwit::runtime {

class ContainerLab : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // A bundle made by tests/lab/bundle with these options.
  std::string make_bundle(const std::string& kind, const std::vector<std::string>& options);
  ContainerSpec spec(const std::string& id, const std::string& bundle) const;
  // A line of /proc/PID/status.
  static std::string status_line(pid_t pid, const std::string& key);
  [[nodiscard]] std::string log() const;

  std::string directory_;
  std::string host_;
  Runc runc_{"", "", ""};
};

}  // namespace godwit::runtime
