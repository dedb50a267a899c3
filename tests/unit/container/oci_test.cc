// What is made of a user's config.json, and what is refused in it.
#include "runtime/container/oci.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/fd.h"

namespace godwit::runtime {
namespace {

using Json = nlohmann::json;

class Oci : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "godwit-oci-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    spec_.id = "box";
    spec_.bundle = pattern;
    spec_.network_namespace = "/run/netns/box";
    std::filesystem::create_directory(pattern + "/rootfs");
  }
  void TearDown() override { std::filesystem::remove_all(spec_.bundle); }

  Result<std::string> convert(const std::string& text) {
    EXPECT_TRUE(write_file(spec_.bundle + "/config.json", text));
    return container_config(spec_, "/godwit-a/box");
  }
  Result<std::string> convert(const Json& config) { return convert(config.dump()); }

  static Json sample() {
    return Json::parse(R"({"ociVersion": "1.0.2", "root": {"path": "rootfs"},
      "process": {"args": ["/bin/true"], "cwd": "/data", "user": {"uid": 7, "gid": 7}, "noNewPrivileges": true,
                  "capabilities": {"bounding": ["CAP_KILL"]}, "env": ["A=b"],
                  "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 20, "soft": 10}]},
      "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}})");
  }
  void expect_refused(const std::string& text, const std::string& because) {
    const auto config = convert(text);
    ASSERT_FALSE(config) << text;
    EXPECT_NE(config.error().to_string().find(because), std::string::npos) << config.error().to_string();
    EXPECT_EQ(config.error().to_string().find('\n'), std::string::npos);
  }

  ContainerSpec spec_;
};

TEST_F(Oci, FillsInWhatAContainerOfItsOwnNeeds) {
  spec_.limits = {.memory_bytes = 64 << 20, .cpu_millis = 1500};
  const auto text = convert(sample());
  ASSERT_TRUE(text) << text.error().to_string();
  const Json config = Json::parse(*text);
  EXPECT_EQ(config["hostname"], "box");
  EXPECT_EQ(config["root"]["path"], spec_.bundle + "/rootfs");
  EXPECT_EQ(config["linux"]["cgroupsPath"], "/godwit-a/box");
  EXPECT_EQ(config["linux"]["resources"]["memory"]["limit"], 64 << 20);
  EXPECT_EQ(config["linux"]["resources"]["memory"]["swap"], 64 << 20);
  EXPECT_EQ(config["linux"]["resources"]["cpu"]["quota"], 150'000);
  EXPECT_EQ(config["process"]["user"]["uid"], 7);
  const Json& namespaces = config["linux"]["namespaces"];
  for (const char* type : {"pid", "mount", "ipc", "uts", "cgroup"})
    EXPECT_EQ(std::count(namespaces.begin(), namespaces.end(), Json{{"type", type}}), 1) << type;
  EXPECT_EQ(
      std::count(namespaces.begin(), namespaces.end(), Json{{"type", "network"}, {"path", "/run/netns/box"}}),
      1);
}

TEST_F(Oci, KeepsRelativeBindMountsRelativeToTheUsersBundle) {
  Json config = sample();
  config["mounts"] = Json::parse(
      R"([{"destination": "/a", "type": "none", "source": "data", "options": ["rbind"]},
          {"destination": "/b", "type": "tmpfs", "source": "tmpfs"}])");
  const auto text = convert(config);
  ASSERT_TRUE(text) << text.error().to_string();
  const Json mounts = Json::parse(*text)["mounts"];
  EXPECT_EQ(mounts[0]["source"], spec_.bundle + "/data");
  EXPECT_EQ(mounts[1]["source"], "tmpfs");
}

TEST_F(Oci, RefusesWhatCannotMove) {
  expect_refused("", "not a JSON object");
  expect_refused("[]", "not a JSON object");
  expect_refused(R"({"process": )", "not a JSON object");
  expect_refused(std::string(100'000, '['), "nests too deep");
  expect_refused("{}", "'process' is missing");
  const auto with = [](const char* pointer, const Json& value) {
    Json config = sample();
    config[Json::json_pointer(pointer)] = value;
    return config.dump();
  };
  expect_refused(with("/process/args", Json::array()), "does not name a program");
  expect_refused(with("/process/args", Json::array({1})), "does not name a program");
  expect_refused(with("/process/terminal", true), "set process.terminal to false");
  expect_refused(with("/root", Json::object()), "'root.path' is missing");
  expect_refused(with("/root", 5), "'root' is not an object");
  expect_refused(with("/root/path", "absent"), "No such file or directory");
  expect_refused(with("/linux", 5), "'linux' is not an object");
  expect_refused(with("/linux/resources", "much"), "'resources' is not an object");
  expect_refused(with("/linux/namespaces", 5), "not a list");
  expect_refused(with("/linux/rootfsPropagation", "rshared"), "reach the host");
  expect_refused(with("/linux/namespaces", Json::parse(R"([{"type": "user"}])")), "user namespace");
  expect_refused(with("/linux/namespaces", Json::parse(R"([{"type": "ipc", "path": "/proc/1/ns/ipc"}])")),
                 "'path' of the ipc namespace");
  expect_refused(with("/mounts", 5), "'mounts' is not a list");
}

TEST_F(Oci, RefusesSillyLimitsAndHostNames) {
  spec_.limits.memory_bytes = 4096;
  expect_refused(sample().dump(), "at least 4 MiB");
  spec_.limits = {.memory_bytes = 0, .cpu_millis = 1};
  expect_refused(sample().dump(), "less than 0.01");
  spec_.limits = {};
  spec_.hostname = "a b";
  expect_refused(sample().dump(), "hostname 'a b'");
}

TEST_F(Oci, RefusesAConfigOfUnreasonableSize) {
  const auto config = convert("{\"a\": \"" + std::string(2 << 20, 'x') + "\"}");
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().code, EFBIG);
}

TEST_F(Oci, MakesThePlaceholderPrivilegedAndNothingElseDifferent) {
  const auto own = convert(sample());
  ASSERT_TRUE(own);
  const auto text =
      placeholder_config(*own, "/proc/self/fd/3", {.capabilities = 0x1fffeffffff, .open_files_max = 5000});
  ASSERT_TRUE(text) << text.error().to_string();
  Json config = Json::parse(*text);
  EXPECT_EQ(config["process"]["args"], Json::array({"/proc/self/fd/3"}));
  EXPECT_EQ(config["process"]["cwd"], "/");
  EXPECT_EQ(config["process"]["user"], (Json{{"uid", 0}, {"gid", 0}}));
  EXPECT_EQ(config["process"]["noNewPrivileges"], true);
  for (const char* set : {"bounding", "effective", "inheritable", "permitted", "ambient"})
    EXPECT_EQ(config["process"]["capabilities"][set].size(), 40U) << set;
  EXPECT_EQ(config["process"]["capabilities"]["effective"].back(), "CAP_CHECKPOINT_RESTORE");
  EXPECT_EQ(config["process"]["rlimits"],
            Json::parse(R"([{"type": "RLIMIT_NOFILE", "hard": 5000, "soft": 5000}])"));
  Json before = Json::parse(*own);
  before.erase("process");
  config.erase("process");
  EXPECT_EQ(config, before);
}

TEST_F(Oci, PutsTheContainersOwnPrivilegesIntoRuncsState) {
  const auto own = convert(sample());
  ASSERT_TRUE(own);
  const auto text = state_with_own_process(
      R"({"id": "box", "init_process_start": 18446744073709551615,
          "config": {"capabilities": {"Bounding": ["CAP_SYS_ADMIN"]}, "no_new_privileges": true}})",
      *own);
  ASSERT_TRUE(text) << text.error().to_string();
  const Json state = Json::parse(*text);
  EXPECT_EQ(state["init_process_start"], UINT64_MAX);
  EXPECT_EQ(state["config"]["no_new_privileges"], true);
  EXPECT_EQ(state["config"]["capabilities"]["Bounding"], Json::array({"CAP_KILL"}));
  EXPECT_EQ(state["config"]["capabilities"]["Effective"], nullptr);
  EXPECT_FALSE(state_with_own_process(R"({"config": {"capabilities": {}, "rlimits": [1]}})", *own));
  EXPECT_FALSE(state_with_own_process(R"({"config": {}})", *own));
  EXPECT_FALSE(state_with_own_process("5", *own));
}

}  // namespace
}  // namespace godwit::runtime
