// What comes after the decision: nothing that can fail, or keep a container from running. A whole container
// is moved on one machine, with a client that speaks with it all the time.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "runtime/container/freezer.h"
#include "runtime/process/heal.h"
#include "tests/integration/process/replica_report.h"
#include "tests/integration/process/roundtrip_rig.h"
#include "tests/integration/process/topology.h"

namespace godwit::runtime::test {
namespace {

constexpr uint16_t kPort = 7200;

// Sends a byte, and waits for its echo, over one connection.
class Client {
 public:
  Client() : thread_([this](const std::stop_token& stop) { run(stop); }) {}
  [[nodiscard]] const char* fault() const { return fault_; }
  [[nodiscard]] bool wait_more(uint64_t count) const {
    const uint64_t before = echoes_;
    for (int i = 0; i < 5000 && !broken_; ++i) {
      if (echoes_ >= before + count) return true;
      ::usleep(2000);
    }
    return false;
  }

 private:
  void run(const std::stop_token& stop) {
    Topology::enter("c");
    const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval patience{.tv_sec = 0, .tv_usec = 20000};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(kPort);
    ::inet_pton(AF_INET, "10.9.0.2", &address.sin_addr);
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      end("it cannot connect");
    for (uint8_t next = 0; !broken_ && !stop.stop_requested(); ++next) {
      if (::send(socket.get(), &next, 1, MSG_NOSIGNAL) != 1) end("it cannot send");
      uint8_t echo = 0;
      ssize_t got = -1;
      while (!broken_ && !stop.stop_requested() && got != 1) {
        got = ::recv(socket.get(), &echo, 1, 0);
        if (got == 0) end("it has been closed");
        if (got < 0 && errno != EAGAIN && errno != EINTR) end(::strerrordesc_np(errno));
      }
      if (got == 1 && echo != (next ^ 0x55)) end("it brings another byte");
      if (got == 1) ++echoes_;
      ::usleep(500);
    }
  }
  void end(const char* fault) {
    fault_ = fault;
    broken_ = true;
  }
  std::atomic<const char*> fault_{"nothing comes"};
  std::atomic<bool> broken_{false};
  std::atomic<uint64_t> echoes_{0};
  std::jthread thread_;
};

std::string text_of(const Faults& faults) {
  std::string text;
  for (const Error& fault : faults) text += fault.to_string() + "\n";
  return text;
}

class AfterTheDecision : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(topology_.good);
    ASSERT_EQ(::mkdir(directory_.c_str(), 0755), 0);
    const std::string report = directory_ + "/report";
    report_file_ = Fd(::open(report.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    ASSERT_EQ(::mkdir(home_.c_str(), 0755), 0);
    source_ = start_init(source_cgroup_, [&] {
      Topology::enter("s");
      const int none = ::open("/dev/null", O_RDWR);
      for (int fd : {0, 1, 2}) ::dup2(none, fd);
      ::syscall(SYS_close_range, 3, ~0U, 0);
      ::setenv("MALLOC_ARENA_MAX", "1", 1);
      ::execl(REPLICA_VICTIM, "replica_victim", report.c_str(), path_.c_str(), std::to_string(kPort).c_str(),
              nullptr);
    });
    ASSERT_GT(source_, 0);
    ASSERT_TRUE(wait_rounds(30));
    client_ = std::make_unique<Client>();
    ASSERT_TRUE(client_->wait_more(20));
    start_placeholder();
    auto freezer = Freezer::open(source_);
    auto other = Freezer::open(target_);
    ASSERT_TRUE(freezer && other);
    source_freezer_ = std::make_unique<Freezer>(*std::move(freezer));
    target_freezer_ = std::make_unique<Freezer>(*std::move(other));
  }
  void TearDown() override {
    client_.reset();
    // What is traced is not waited for as long as its tracer holds its threads.
    capture_.reset();
    for (const pid_t pid : {source_, target_}) {
      if (pid <= 0) continue;
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, __WALL);
    }
    static_cast<void>(std::system(("rm -rf " + directory_).c_str()));
  }

  void start_placeholder() {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    channel_ = Fd(ends[0]);
    target_ = start_init(target_cgroup_, [&] {
      Topology::enter("t");
      ::dup2(ends[1], 4);
      ::syscall(SYS_close_range, 5, ~0U, 0);
      const char hello = 'p';
      if (::write(4, &hello, 1) != 1) return;
      for (;;) ::pause();
    });
    ::close(ends[1]);
    ASSERT_GT(target_, 0);
    char hello = 0;
    ASSERT_EQ(::read(channel_.get(), &hello, 1), 1);
  }

  [[nodiscard]] ReplicaReport report() const {
    ReplicaReport report;
    static_cast<void>(::pread(report_file_.get(), &report, sizeof report, 0));
    return report;
  }
  [[nodiscard]] bool wait_rounds(uint64_t more) const {
    const uint64_t before = report().rounds;
    for (int i = 0; i < 5000; ++i) {
      if (report().rounds >= before + more) return true;
      ::usleep(2000);
    }
    return false;
  }

  // The frozen snapshots of the source, taken again as long as something is on its way.
  Result<void> freeze_source() {
    Topology::link("cs", "down");
    CaptureOptions options{.init_pid = source_,
                           .log_path = "/dev/null/none",
                           .freeze_cgroup = [&] { return source_freezer_->freeze(); },
                           .thaw_cgroup = [&] { return source_freezer_->thaw(); },
                           .list_cgroup = [&] { return source_freezer_->processes(); }};
    GODWIT_ASSIGN(capture_, Capture::open(std::move(options)));
    GODWIT_ASSIGN(const model::Snapshot live, capture_->snapshot_live());
    GODWIT_TRY(capture_->freeze());
    GODWIT_ASSIGN(memory_, capture_->snapshot_frozen_memory());
    GODWIT_ASSIGN(frozen_, capture_->snapshot_frozen());
    return {};
  }
  Result<std::unique_ptr<Replica>> build() {
    GODWIT_ASSIGN(auto replica, Replica::adopt({.placeholder_pid = target_,
                                                .channel = std::move(channel_),
                                                .placeholder_channel_fd = 4,
                                                .log_path = {}}));
    GODWIT_TRY(replica->reconcile_memory(memory_));
    GODWIT_TRY(copy_pages(*capture_, *replica, memory_));
    GODWIT_TRY(replica->reconcile(frozen_));
    GODWIT_TRY(target_freezer_->freeze());
    GODWIT_TRY(replica->hold());
    return replica;
  }
  void end_source() {
    capture_.reset();
    ::kill(source_, SIGKILL);
    ::waitpid(source_, nullptr, __WALL);
    source_ = 0;
    Topology::link("ct", "up");
  }

  [[nodiscard]] bool is_greeted() const {
    const Fd guest(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    if (::connect(guest.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return false;
    char greeting[3] = {};
    return ::recv(guest.get(), greeting, 2, MSG_WAITALL) == 2 && std::string(greeting) == "hi";
  }
  void expect_it_goes_on() {
    const ReplicaReport before = report();
    EXPECT_TRUE(wait_rounds(50)) << "the replica does not run";
    EXPECT_TRUE(client_->wait_more(20)) << "the connection does not go on: " << client_->fault();
    const ReplicaReport after = report();
    EXPECT_EQ(after.wrong, 0U);
    EXPECT_EQ(after.urgent, 0U);
    EXPECT_GT(after.thread_rounds, before.thread_rounds);
    EXPECT_GT(after.child_rounds, before.child_rounds);
  }

  const Topology topology_;
  const std::string directory_ = "/var/tmp/godwit-replica-" + std::to_string(::getpid());
  const std::string home_ = directory_ + "/home";
  const std::string path_ = home_ + "/greeter.sock";
  const std::string aside_ = home_ + "/.godwit-greeter.sock";
  Fd report_file_, channel_;
  Cgroup source_cgroup_, target_cgroup_;
  pid_t source_ = 0, target_ = 0;
  std::unique_ptr<Freezer> source_freezer_, target_freezer_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Capture> capture_;
  model::Snapshot memory_, frozen_;
};

TEST_F(AfterTheDecision, AllIsInItsPlace) {
  EXPECT_DONE(freeze_source());
  auto replica = build();
  ASSERT_TRUE(replica) << replica.error().to_string();
  end_source();
  EXPECT_EQ(text_of((*replica)->run()), "");
  EXPECT_DONE(target_freezer_->thaw());
  expect_it_goes_on();
  EXPECT_TRUE(is_greeted());
  EXPECT_NE(::access(aside_.c_str(), F_OK), 0) << "something is left beside the socket";
}

TEST_F(AfterTheDecision, ADirectoryThatHasGoneKeepsNobodyFromRunning) {
  EXPECT_DONE(freeze_source());
  auto replica = build();
  ASSERT_TRUE(replica) << replica.error().to_string();
  end_source();
  ASSERT_EQ(std::system(("rm -r " + home_).c_str()), 0);
  EXPECT_NE(text_of((*replica)->run()).find(home_), std::string::npos);
  EXPECT_DONE(target_freezer_->thaw());
  expect_it_goes_on();
}

TEST_F(AfterTheDecision, APlaceThatIsTakenKeepsNobodyFromRunning) {
  EXPECT_DONE(freeze_source());
  auto replica = build();
  ASSERT_TRUE(replica) << replica.error().to_string();
  end_source();
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  ASSERT_EQ(::mkdir(path_.c_str(), 0755), 0);
  EXPECT_NE(text_of((*replica)->run()).find(path_), std::string::npos);
  EXPECT_DONE(target_freezer_->thaw());
  expect_it_goes_on();
}

TEST_F(AfterTheDecision, WithoutOneTheSourceGoesOn) {
  EXPECT_DONE(freeze_source());
  auto replica = build();
  ASSERT_TRUE(replica) << replica.error().to_string();
  EXPECT_EQ(::access(aside_.c_str(), F_OK), 0);
  EXPECT_DONE((*replica)->destroy());
  replica->reset();
  EXPECT_NE(::access(aside_.c_str(), F_OK), 0) << "something is left beside the socket";
  capture_.reset();
  EXPECT_DONE(source_freezer_->thaw());
  Topology::link("cs", "up");
  expect_it_goes_on();
  EXPECT_TRUE(is_greeted());
}

// The holder's part of an adoption: tells what is left to do, and waits to be killed.
[[noreturn]] void be_the_holder(const Replica& replica, int to) {
  const std::string plan = replica.after_commit().SerializeAsString();
  const auto size = static_cast<uint32_t>(plan.size());
  const bool told = ::write(to, &size, sizeof size) == sizeof size &&
                    ::write(to, plan.data(), plan.size()) == static_cast<ssize_t>(plan.size());
  if (!told) ::_exit(2);
  for (;;) ::pause();
}

Result<model::AfterCommit> read_plan(int from) {
  uint32_t size = 0;
  if (::read(from, &size, sizeof size) != sizeof size) return fail("read", "the plan's size", EIO);
  std::string text(size, '\0');
  for (size_t at = 0; at < size;) {
    const ssize_t got = ::read(from, text.data() + at, size - at);
    if (got <= 0) return fail("read", "the plan", EIO);
    at += static_cast<size_t>(got);
  }
  model::AfterCommit plan;
  if (!plan.ParseFromString(text)) return refuse("read", "the plan", "it is broken");
  return plan;
}

TEST_F(AfterTheDecision, AnotherProcessLetsTheHeldReplicaRun) {
  EXPECT_DONE(freeze_source());
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  const pid_t holder = ::fork();
  if (holder == 0) {
    auto replica = build();
    if (replica) be_the_holder(**replica, writer.get());
    std::fprintf(stderr, "%s\n", replica.error().to_string().c_str());
    ::_exit(1);
  }
  writer.reset();
  const auto plan = read_plan(reader.get());
  ASSERT_TRUE(plan) << plan.error().to_string();
  EXPECT_EQ(plan->names_size(), 1);
  EXPECT_EQ(plan->connections_size(), 1);
  end_source();
  ::kill(holder, SIGKILL);
  ASSERT_EQ(::waitpid(holder, nullptr, 0), holder);

  const ReplicaReport before = report();
  ::usleep(50000);
  EXPECT_EQ(report().rounds, before.rounds) << "it runs before it may";
  const auto pids = target_freezer_->processes();
  ASSERT_TRUE(pids) << pids.error().to_string();
  EXPECT_EQ(pids->size(), 2U);
  EXPECT_EQ(text_of(release_held(target_, *pids, *plan)), "");
  EXPECT_EQ(text_of(release_held(target_, *pids, *plan)), "") << "a second time";
  EXPECT_DONE(target_freezer_->thaw());
  expect_it_goes_on();
  EXPECT_TRUE(is_greeted());
  EXPECT_NE(::access(aside_.c_str(), F_OK), 0) << "something is left beside the socket";
}

}  // namespace
}  // namespace godwit::runtime::test
