#include "engine/host/control_listener.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <future>

#include "base/clock.h"
#include "base/socket_address.h"
#include "engine/protocol/framing.h"

namespace godwit::engine {
namespace {

using model::ControlMessage;

constexpr int64_t kPatienceNs = 20'000'000'000;

class ControlListenerTest : public ::testing::Test {
 protected:
  // Servants of greetings wait for `release_`; those of inquiries answer at once.
  void start(ControlListener::Bounds bounds) {
    const std::shared_future<void> released = release_.get_future().share();
    const ControlListener::Servants servants{
        .hello =
            [this, released](Fd connection, const std::string&, const model::Hello&) {
              ++hellos_;
              released.wait();
              char next = 0;
              if (::recv(connection.get(), &next, 1, MSG_DONTWAIT) == 1) behind_the_hello_ = next;
            },
        .inquiry =
            [](Fd connection, const std::string&, const model::Inquiry&) {
              ControlMessage answer;
              answer.mutable_answer()->set_evidence(model::Answer::EVIDENCE_PENDING);
              EXPECT_TRUE(send_message(connection.get(), answer));
            }};
    auto started = ControlListener::start("127.0.0.1:0", servants, bounds);
    ASSERT_TRUE(started) << started.error().to_string();
    listener_ = *std::move(started);
    address_ = *parse_address("127.0.0.1", *listener_->port());
  }
  void TearDown() override {
    if (!is_released_) release_.set_value();
  }
  void release() {
    release_.set_value();
    is_released_ = true;
  }

  [[nodiscard]] Fd connect() const {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(socket.get(), address_.get(), address_.size), 0);
    return socket;
  }
  [[nodiscard]] Fd greet() const {
    Fd socket = connect();
    ControlMessage message;
    message.mutable_hello()->set_session("s");
    EXPECT_TRUE(send_message(socket.get(), message));
    return socket;
  }
  static Result<ControlMessage> answer_to(const Fd& socket) {
    ControlMessage answer;
    GODWIT_TRY(receive_message(socket.get(), answer, monotonic_ns() + kPatienceNs));
    return answer;
  }
  [[nodiscard]] Result<ControlMessage> inquire() const {
    const Fd socket = connect();
    ControlMessage message;
    message.mutable_inquiry()->set_container("c");
    GODWIT_TRY(send_message(socket.get(), message));
    return answer_to(socket);
  }
  static bool is_open(const Fd& socket, int within_ms = 0) {
    pollfd entry{.fd = socket.get(), .events = POLLIN, .revents = 0};
    return ::poll(&entry, 1, within_ms) == 0;
  }
  static void expect_closed(const Fd& socket) { EXPECT_FALSE(is_open(socket, 20'000)); }
  void await_hellos(int count) const {
    for (int i = 0; i < 2000 && hellos_ != count; ++i) ::poll(nullptr, 0, 10);
    EXPECT_EQ(hellos_, count);
  }

  std::promise<void> release_;
  bool is_released_ = false;
  std::atomic<int> hellos_ = 0;
  std::atomic<char> behind_the_hello_ = 0;
  SocketAddress address_;
  std::unique_ptr<ControlListener> listener_;  // the last: it waits for its servants
};

TEST_F(ControlListenerTest, TakesTheFirstMessageAndNothingBehindIt) {
  start({});
  const Fd socket = greet();
  ASSERT_EQ(::send(socket.get(), "x", 1, 0), 1);
  await_hellos(1);
  // What was sent behind it has come, too.
  EXPECT_TRUE(inquire());
  release();
  expect_closed(socket);
  EXPECT_EQ(behind_the_hello_, 'x');
}

TEST_F(ControlListenerTest, TakesAMessageThatComesInPieces) {
  start({});
  ControlMessage message;
  message.mutable_hello()->set_session(std::string(10'000, 's'));
  std::string bytes = message.SerializeAsString();
  const auto length = static_cast<uint32_t>(bytes.size());
  bytes.insert(0, reinterpret_cast<const char*>(&length), sizeof length);
  const Fd socket = connect();
  for (const size_t cut : {size_t{0}, size_t{2}, size_t{5}, size_t{7000}}) {
    const size_t end = cut == 0 ? 2 : cut == 2 ? 5 : cut == 5 ? 7000 : bytes.size();
    ASSERT_EQ(::send(socket.get(), bytes.data() + cut, end - cut, 0), static_cast<ssize_t>(end - cut));
    ASSERT_TRUE(inquire());
  }
  await_hellos(1);
}

TEST_F(ControlListenerTest, OneGreetingTooManyIsAnsweredAndInquiriesGoOn) {
  start({.hellos_max = 2});
  const Fd first = greet();
  const Fd second = greet();
  await_hellos(2);
  const auto refused = answer_to(greet());
  ASSERT_TRUE(refused) << refused.error().to_string();
  EXPECT_EQ(refused->refusal().why(), "busy: 2 arrivals under way; try again later");
  const auto answer = inquire();
  ASSERT_TRUE(answer) << answer.error().to_string();
  EXPECT_EQ(answer->answer().evidence(), model::Answer::EVIDENCE_PENDING);
  release();
  expect_closed(first);
  // Its place is free a moment later.
  for (int i = 0; i < 2000 && hellos_ < 3; ++i) {
    const Fd third = greet();
    expect_closed(third);
  }
  EXPECT_EQ(hellos_, 3);
}

TEST_F(ControlListenerTest, TheSilentKeepNobodyOut) {
  start({.pending_max = 8});
  std::vector<Fd> silent;
  silent.reserve(20);
  for (int i = 0; i < 20; ++i) silent.push_back(connect());
  EXPECT_TRUE(inquire());
  const Fd greeting = greet();
  await_hellos(1);
  for (int i = 0; i < 12; ++i) expect_closed(silent[static_cast<size_t>(i)]);
  EXPECT_TRUE(is_open(silent.back())) << "the one that came last had to go";
}

TEST_F(ControlListenerTest, WhoSaysNothingForTooLongIsClosed) {
  start({.patience_ms = 50});
  const Fd silent = connect();
  const Fd slow = connect();
  ASSERT_EQ(::send(slow.get(), "\x10\0", 2, 0), 2);
  expect_closed(silent);
  expect_closed(slow);
}

TEST_F(ControlListenerTest, WhatNoAgentSaysFirstIsClosed) {
  start({});
  for (const std::string& bytes : {std::string("GET / HTTP/1.0\r\n\r\n"), std::string(4, '\0'),
                                   std::string("\x01\0\x01\0", 4), std::string("\x02\0\0\0\xff\xff", 6)}) {
    const Fd stranger = connect();
    ASSERT_EQ(::send(stranger.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    expect_closed(stranger);
  }
  EXPECT_EQ(hellos_, 0);
  EXPECT_TRUE(inquire());
}

}  // namespace
}  // namespace godwit::engine
