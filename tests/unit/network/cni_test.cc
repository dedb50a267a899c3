#include "runtime/network/cni.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/fd.h"
#include "runtime/network/grace.h"
#include "runtime/network/network.h"

namespace godwit::runtime {
namespace {

const CniCall kCall{.plugin_directory = "/plugins",
                    .container_id = "c",
                    .network_namespace = "/n/c",
                    .bridge = "scratch",
                    .address = "10.7.0.5/24",
                    .gateway = "",
                    .mac = "02:67:0a:07:00:05",
                    .mtu = 1500};

std::string result(const std::string& host, const std::string& mac) {
  return R"({"interfaces":[{"name":"scratch","mac":"02:00:00:00:00:01"},{"name":")" + host +
         R"(","mac":"02:00:00:00:00:02"},{"name":"eth0","mac":")" + mac + R"(","sandbox":"/n/c"}]})";
}

TEST(CniResult, NamesTheHostsInterface) {
  const auto host = read_cni_result(result("veth1", kCall.mac), kCall);
  ASSERT_TRUE(host.has_value());
  EXPECT_EQ(*host, "veth1");
}

TEST(CniResult, IsNotTrusted) {
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{}"), std::string(R"({"interfaces":3})"),
        std::string(R"({"interfaces":[3,{"name":7}]})"), result("veth1", "02:00:00:00:00:09"),
        result("", kCall.mac), result("../../x", kCall.mac), result("a-name-much-too-long", kCall.mac)})
    EXPECT_FALSE(read_cni_result(text, kCall).has_value()) << text;
}

// A directory with a plugin that is a shell script.
class CniPlugin : public ::testing::Test {
 protected:
  CniPlugin() { call_.plugin_directory = ::mkdtemp(directory_.data()); }
  ~CniPlugin() override { std::filesystem::remove_all(call_.plugin_directory); }
  Result<std::string> add_by(const std::string& script) {
    const std::string path = call_.plugin_directory + "/bridge";
    EXPECT_TRUE(write_file(path, "#!/bin/sh\n" + script + "\n").has_value());
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return cni_add(call_);
  }
  std::string directory_ = "/tmp/godwit-cni-XXXXXX";
  CniCall call_ = kCall;
};

TEST_F(CniPlugin, ReadsItsConfigurationAndIsUnderstood) {
  const auto host =
      add_by("grep -q '\"mac\":\"" + kCall.mac + "\"' || exit 1\n" +
             "[ \"$CNI_COMMAND $CNI_NETNS\" = 'ADD /n/c' ] || exit 2\n" +
             "echo complaints are not the result >&2\n" + "echo '" + result("veth1", kCall.mac) + "'");
  ASSERT_TRUE(host.has_value()) << host.error().to_string();
  EXPECT_EQ(*host, "veth1");
}

TEST_F(CniPlugin, IsQuotedWhenItFails) {
  const std::pair<std::string, std::string> cases[] = {
      {R"(echo '{"code":7,"msg":"no room","details":"in the pool"}')", "no room in the pool"},
      {R"(echo '{"code":7,"msg":"no room"}'; exit 1)", "no room"},
      {R"(echo '{"code":7}'; exit 1)", "it ended with status 1 and no reason"},
      {R"(printf 'out of\n\033[1mwires\n' >&2; exit 3)", "out of  [1mwires"},
      {"exit 3", "it ended with status 3 and no reason"},
      {"kill -KILL $$", "it ended with status 137 and no reason"}};
  for (const auto& [script, why] : cases) {
    const auto host = add_by(script);
    ASSERT_FALSE(host.has_value()) << script;
    EXPECT_EQ(host.error().hint, why);
  }
}

TEST_F(CniPlugin, SaysWhatToInstallWhenItIsMissing) {
  const auto host = cni_add(call_);
  ASSERT_FALSE(host.has_value());
  EXPECT_EQ(host.error().code, ENOENT);
  EXPECT_EQ(host.error().hint, "install the package containernetworking-plugins");
}

TEST(Network, RefusesBadNamesBeforeAnythingIsDone) {
  Network network("/nonexistent/godwit");
  for (const char* id : {"", "..", ".x", "a/b", "a b"}) {
    EXPECT_FALSE(network.find(id).has_value()) << id;
    EXPECT_FALSE(
        network
            .attach({.container_id = id, .address = "10.0.0.1/8", .mac = "", .bridge = "lo", .gateway = ""},
                    true)
            .has_value())
        << id;
  }
}

TEST(Grace, ReturnsAndPutsTheThreadBack) {
  const int policy = ::sched_getscheduler(0);
  EXPECT_TRUE(wait_for_packet_processing().has_value());
  EXPECT_EQ(::sched_getscheduler(0), policy);
}

}  // namespace
}  // namespace godwit::runtime
