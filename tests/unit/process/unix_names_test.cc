#include "runtime/process/descriptors/unix_names.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "runtime/process/descriptors/unix_stage.h"

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

model::UnixSocket bound_to(const std::string& address, const std::string& directory = {}) {
  model::UnixSocket socket;
  socket.set_address(address);
  if (!directory.empty()) socket.mutable_bound_file()->set_directory(directory);
  return socket;
}

std::string place_of(const model::UnixSocket& socket) {
  const auto place = stage_of(socket);
  return place ? place->directory() + " " + place->staged() + " " + place->name() : "refused";
}

TEST(UnixNames, ASocketLiesBesideItsPlace) {
  EXPECT_EQ(place_of(bound_to("/run/app/a.sock")), "/run/app .godwit-a.sock/run/app/a.sock a.sock");
  EXPECT_EQ(place_of(bound_to("/a.sock")), "/ .godwit-a.sock/a.sock a.sock");
  EXPECT_EQ(place_of(bound_to("a.sock", "/run/app")), "/run/app .godwit-a.sock/a.sock a.sock");
  EXPECT_EQ(place_of(bound_to("app/a.sock", "/run")), "/run/app .godwit-a.sock/app/a.sock a.sock");
  EXPECT_EQ(place_of(bound_to("/run/../a.sock")), "/run/.. .godwit-a.sock/a.sock a.sock");
  EXPECT_EQ(place_of(bound_to("/../../a.sock")), "/../.. .godwit-a.sock/a.sock a.sock");
}

TEST(UnixNames, APathThatLeadsOutOfItsDirectoryIsRefused) {
  EXPECT_EQ(place_of(bound_to("../a.sock", "/run")), "refused");
  EXPECT_EQ(place_of(bound_to("app/../../a.sock", "/run")), "refused");
  for (const char* nowhere : {"/run/..", "/run/", "/", "..", "."})
    EXPECT_EQ(place_of(bound_to(nowhere, "/run")), "refused") << nowhere;
}

}  // namespace
}  // namespace godwit::runtime
