#include "engine/host/admission.h"

#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <netpacket/packet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <set>

#include "base/fd.h"
#include "engine/host/arrivals.h"
#include "engine/protocol/first_message.h"
#include "engine/protocol/framing.h"
#include "engine/protocol/version.h"

namespace godwit::engine {
namespace {

constexpr uint64_t kMiB = 1ULL << 20;

class AdmissionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "godwit-admission-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    KeeperOptions options;
    options.name = "here";
    options.root = root_;
    options.listen = "127.0.0.1:0";
    host_ = std::make_unique<Host>(options);
    ASSERT_TRUE(host_->store.load());
    ASSERT_TRUE(host_->sessions.prepare());
    admission_ = std::make_unique<Admission>(*host_, [] { return Result<uint64_t>(1064 * kMiB); });
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  static model::Hello hello(const std::string& id, const std::string& address, uint64_t memory_bytes = kMiB) {
    model::Hello hello;
    hello.set_version(kProtocolVersion);
    hello.set_session("0123");
    hello.set_source_name("there");
    hello.mutable_container()->set_id(id);
    hello.mutable_container()->set_hostname("h");
    hello.mutable_container()->set_uid("u" + id);
    hello.mutable_container()->set_incarnation(3);
    hello.mutable_container()->set_address(address);
    hello.set_memory_bytes(memory_bytes);
    hello.mutable_goals()->set_deadline_ms(1000);
    hello.set_streams(1);
    return hello;
  }
  // Refused, for this reason, and nothing is there that was not before.
  void expect_refused(const model::Hello& hello, const std::string& why) {
    const auto before = folders();
    const auto room = admission_->admit(hello);
    ASSERT_FALSE(room) << why;
    EXPECT_NE(room.error().to_string().find(why), std::string::npos) << room.error().to_string();
    EXPECT_EQ(folders(), before);
  }
  [[nodiscard]] std::set<std::string> folders() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(root_ + "/containers"))
      names.insert(entry.path());
    return names;
  }

  std::string root_;
  std::unique_ptr<Host> host_;
  std::unique_ptr<Admission> admission_;
};

TEST_F(AdmissionTest, WhatMakesNoSenseIsRefused) {
  const model::Hello good = hello("c", "10.99.0.5/24");
  const auto refused = [&](const std::string& why, const std::function<void(model::Hello&)>& spoil) {
    model::Hello bad = good;
    spoil(bad);
    expect_refused(bad, why);
  };
  refused("protocol version", [](model::Hello& bad) { bad.set_version(kProtocolVersion + 1); });
  refused("id", [](model::Hello& bad) { bad.mutable_container()->set_id("../x"); });
  refused("session", [](model::Hello& bad) { bad.set_session("a b"); });
  refused("both named here", [](model::Hello& bad) { bad.set_source_name("here"); });
  refused("deadline", [](model::Hello& bad) { bad.mutable_goals()->set_deadline_ms(0); });
  refused("link options", [](model::Hello& bad) { bad.set_streams(1000); });
  refused("hostname", [](model::Hello& bad) { bad.mutable_container()->set_hostname("a b"); });
  refused("address", [](model::Hello& bad) { bad.mutable_container()->set_address("10.99.0.5"); });
  refused("MAC", [](model::Hello& bad) { bad.mutable_container()->set_mac("02:11"); });
  refused("processor state", [](model::Hello& bad) { bad.set_extended_state_bytes(1U << 30); });
  EXPECT_TRUE(admission_->admit(good));
}

// tests/unit/engine/kept_bytes_test.cc
TEST_F(AdmissionTest, AKeptHelloOfVersion3IsRefusedAndOneOfVersion4Admitted) {
  const auto kept = [](const std::string& name) {
    const auto bytes = read_file(std::string(GODWIT_SOURCE_ROOT "/tests/unit/engine/data/") + name);
    return std::get<model::Hello>(parse_first_message(bytes.value()).value());
  };
  const model::Hello old = kept("v3_hello.bin");
  expect_refused(old, "the source speaks protocol version 3, this agent ");
  const std::string why = admission_->admit(old).error().to_string();
  EXPECT_NE(why.find(std::to_string(kProtocolVersion)), std::string::npos) << why;
  EXPECT_EQ(why.find('\n'), std::string::npos) << why;
  model::Hello spoken = kept("v4_hello.bin");
  spoken.set_extended_state_bytes(0);  // this processor's is another matter
  const auto room = admission_->admit(spoken);
  EXPECT_TRUE(room) << room.error().to_string();
}

// The container has been here, or is, as an incarnation that is not lower: what comes was left behind
// somewhere.
TEST_F(AdmissionTest, ACopyThatWasLeftBehindIsRefused) {
  ASSERT_TRUE(host_->sessions.remember_incarnation("ua", 4));
  expect_refused(hello("a", "10.0.0.5/24"), "has seen incarnation 4 of it, and this one is 3");
  ASSERT_TRUE(host_->sessions.remember_incarnation("ub", 3));
  EXPECT_TRUE(admission_->admit(hello("b", "10.0.0.6/24")));
}

TEST_F(AdmissionTest, TakesTheIdTheAddressAndThePlaceOfTheGroup) {
  model::Hello first = hello("c", "10.99.0.5/24");
  first.mutable_container()->set_anti_affinity_group("g");
  ASSERT_TRUE(admission_->admit(first));
  EXPECT_EQ(host_->store.find("c")->stage, Stage::kArriving);
  expect_refused(hello("c", "10.99.0.6/24"), "has a container of that name");
  expect_refused(hello("d", "10.99.0.5/16"), "the container c has it");
  model::Hello other = hello("d", "10.99.0.6/24");
  other.mutable_container()->set_anti_affinity_group("g");
  expect_refused(other, "c of the same anti-affinity group is on this host");
  ASSERT_TRUE(host_->store.erase("c"));
  EXPECT_TRUE(admission_->admit(other));
}

TEST_F(AdmissionTest, TheHostsOwnAddressesAreNotToBeHad) {
  expect_refused(hello("c", "127.0.0.1/8"), "this host has it, on lo");
  ifaddrs* list = nullptr;
  ASSERT_EQ(::getifaddrs(&list), 0);
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  for (const ifaddrs* own = list; own != nullptr; own = own->ifa_next) {
    if (own->ifa_addr == nullptr || own->ifa_addr->sa_family != AF_PACKET) continue;
    const auto* const mac = reinterpret_cast<const sockaddr_ll*>(own->ifa_addr)->sll_addr;
    if (std::all_of(mac, mac + 6, [](uint8_t byte) { return byte == 0; })) continue;
    std::array<char, 18> text{};
    std::snprintf(text.data(), text.size(), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                  mac[4], mac[5]);
    model::Hello twin = hello("c", "10.99.0.5/24");
    twin.mutable_container()->set_mac(text.data());
    expect_refused(twin, "take the MAC address");
  }
}

TEST_F(AdmissionTest, RoomIsKeptUntilAnArrivalIsOver) {
  // 1000 MiB are free beside what is the host's own.
  expect_refused(hello("a", "10.99.0.5/24", 1001 * kMiB), "1064 MiB free");
  expect_refused(hello("a", "10.99.0.5/24", UINT64_MAX), "1064 MiB free");
  expect_refused(hello("a", "10.99.0.5/24", UINT64_MAX - 64 * kMiB + 1), "1064 MiB free");
  auto first = admission_->admit(hello("a", "10.99.0.5/24", 600 * kMiB));
  ASSERT_TRUE(first) << first.error().to_string();
  expect_refused(hello("b", "10.99.0.6/24", 401 * kMiB), "600 MiB of them kept");
  // One that is refused for another reason keeps no room.
  expect_refused(hello("a", "10.99.0.6/24", 400 * kMiB), "has a container of that name");
  ASSERT_TRUE(admission_->admit(hello("b", "10.99.0.6/24", 400 * kMiB)));
  first->reset();
  EXPECT_TRUE(admission_->admit(hello("c", "10.99.0.7/24", 1000 * kMiB)));
}

// Without a worker: none could be started from here.
TEST_F(AdmissionTest, ARefusedGreetingIsAnsweredAndLeavesNothing) {
  Workers workers;
  Lifecycle lifecycle(*host_);
  Settlement settlement(*host_, lifecycle);
  Arrivals arrivals(*host_, workers, lifecycle, settlement);
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const Fd source(ends[0]);
  arrivals.receive(Fd(ends[1]), "a source", hello("c", "10.99.0.5/24", UINT64_MAX));
  model::ControlMessage answer;
  ASSERT_TRUE(receive_message(source.get(), answer));
  EXPECT_NE(answer.refusal().why().find("MiB free"), std::string::npos) << answer.refusal().why();
  EXPECT_TRUE(folders().empty());
  EXPECT_TRUE(host_->store.list().empty());
}

}  // namespace
}  // namespace godwit::engine
