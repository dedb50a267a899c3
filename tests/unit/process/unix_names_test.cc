#include "runtime/process/descriptors/unix_names.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

namespace godwit::runtime {
namespace {

const std::string kAbstract("\0client", 7);

TEST(UnixNames, TheNamedEndWasAccepted) {
  EXPECT_EQ(accepted_end("", "", {}), AcceptedEnd::kNone);
  EXPECT_EQ(accepted_end("/run/a", "", {}), AcceptedEnd::kFirst);
  EXPECT_EQ(accepted_end("", kAbstract, {}), AcceptedEnd::kSecond);
}

TEST(UnixNames, TwoNamesNeedAListenerToTellThemApart) {
  EXPECT_EQ(accepted_end("/run/a", kAbstract, {"/run/a"}), AcceptedEnd::kFirst);
  EXPECT_EQ(accepted_end(kAbstract, "/run/a", {"/run/a"}), AcceptedEnd::kSecond);
  EXPECT_FALSE(accepted_end("/run/a", kAbstract, {}));
  EXPECT_FALSE(accepted_end("/run/a", "/run/b", {"/run/a"}));
  EXPECT_FALSE(accepted_end("/run/a", kAbstract, {"/run/a", kAbstract}));
}

TEST(UnixNames, AnAcceptedSocketIsNotBoundItself) {
  model::UnixSocket socket;
  socket.set_type(SOCK_STREAM);
  socket.set_address("/run/a");
  EXPECT_TRUE(is_bound_itself(socket));
  socket.set_peer(7);
  EXPECT_FALSE(is_bound_itself(socket));
  socket.set_type(SOCK_DGRAM);
  EXPECT_TRUE(is_bound_itself(socket));
  socket.set_type(SOCK_STREAM);
  socket.set_peer(0);
  socket.set_shut_read(true);
  socket.set_shut_write(true);
  EXPECT_FALSE(is_bound_itself(socket));
}

}  // namespace
}  // namespace godwit::runtime
