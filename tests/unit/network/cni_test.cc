#include "runtime/network/cni.h"

#include <gtest/gtest.h>
#include <sched.h>

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
