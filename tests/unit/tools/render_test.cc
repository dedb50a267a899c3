#include "tools/godwit/render.h"

#include <gtest/gtest.h>

#include "tools/godwit/terminal.h"

namespace godwit::tools {
namespace {

engine::model::MigrationResult result_with_timeline() {
  engine::model::MigrationResult result;
  result.set_succeeded(true);
  result.set_id("db");
  result.set_bytes_sent(uint64_t{1} << 40);
  const auto add = [&](const char* side, const char* phase, int64_t start_us, int64_t duration_us) {
    engine::model::TimelineEntry& entry = *result.add_timeline();
    entry.set_side(side);
    entry.set_phase(phase);
    entry.set_start_us(start_us);
    entry.set_duration_us(duration_us);
  };
  add("target", "cutover/run", 1'000'900, 100);
  add("source", "cutover/freeze", 1'000'000, 200);
  add("source", "cutover", 1'000'000, 1000);
  add("source", "preflight", 0, 5000);
  return result;
}

TEST(Json, NumbersAreNumbers) {
  const auto json = nlohmann::json::parse(dump(json_of(result_with_timeline())));
  EXPECT_EQ(json["bytes_sent"].get<uint64_t>(), uint64_t{1} << 40);
  EXPECT_TRUE(json["succeeded"].get<bool>());
  EXPECT_EQ(json["timeline"].size(), 4U);
  EXPECT_EQ(json["timeline"][0]["start_us"].get<int64_t>(), 1'000'900);
}

TEST(Json, BrokenTextIsReplaced) {
  engine::model::MigrationResult result;
  result.set_error("not \xff text");
  EXPECT_FALSE(nlohmann::json::parse(dump(json_of(result)), nullptr, false).is_discarded());
}

TEST(Json, AStateHasItsShortName) {
  EXPECT_EQ(state_name(api::v1::CONTAINER_STATE_RUNNING), "running");
  EXPECT_EQ(state_name(api::v1::CONTAINER_STATE_MIGRATING), "migrating");
}

api::v1::Migration waiting_migration() {
  api::v1::Migration migration;
  migration.set_session("0123456789abcdef0123456789abcdef");
  migration.set_container("db");
  migration.set_side("source");
  migration.set_peer("b");
  migration.set_state("committed");
  migration.set_meaning("waits for b to say that it runs there");
  migration.set_changed_unix_s(1'700'000'000);
  migration.set_worker_lives(true);
  migration.set_waiting(true);
  return migration;
}

api::v1::ListMigrationsResponse two_migrations() {
  api::v1::ListMigrationsResponse list;
  list.add_migrations()->set_unreadable("read the session's record x: damaged");
  *list.add_migrations() = waiting_migration();
  return list;
}

TEST(Migrations, SayWhatTheirStateMeans) {
  EXPECT_EQ(
      table_of(two_migrations()),
      "SESSION       CONTAINER  PEER  SINCE                 WORKER   ACKNOWLEDGED  STATE\n"
      "0123456789ab  db         to b  2023-11-14T22:13:20Z  at work  no            committed: waits for b to "
      "say that it runs there\n"
      "unreadable: read the session's record x: damaged\n");
}

TEST(Migrations, AreWholeInJson) {
  const auto json = nlohmann::json::parse(dump(json_of(two_migrations())))["migrations"];
  ASSERT_EQ(json.size(), 2U);
  EXPECT_EQ(json[0], nlohmann::json({{"unreadable", "read the session's record x: damaged"}}));
  EXPECT_EQ(json[1]["session"], "0123456789abcdef0123456789abcdef");
  EXPECT_EQ(json[1]["changed_unix_s"].get<int64_t>(), 1'700'000'000);
  EXPECT_TRUE(json[1]["waiting"].get<bool>());
}

api::v1::InspectResponse inspected_waiter() {
  api::v1::InspectResponse inspected;
  inspected.set_host("a");
  inspected.mutable_container()->set_id("db");
  inspected.mutable_container()->set_state(api::v1::CONTAINER_STATE_MIGRATING);
  inspected.mutable_container()->set_waits_for("b");
  inspected.set_processes("held");
  inspected.set_incarnation(3);
  *inspected.add_migrations() = waiting_migration();
  return inspected;
}

TEST(Inspect, SaysWhatItWaitsForAndTheWayOut) {
  const std::string text = text_of(inspected_waiter());
  EXPECT_NE(
      text.find("it stays stopped here since 2023-11-14T22:13:20Z: waits for b to say that it runs there\n"
                "If b never comes back: godwit resolve db --runs-here | --gone"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("  processes    held\n"), std::string::npos) << text;
  EXPECT_NE(text.find("  incarnation  3\n"), std::string::npos) << text;
  const auto json = nlohmann::json::parse(dump(json_of(inspected_waiter())));
  EXPECT_EQ(json["container"]["waits_for"], "b");
  EXPECT_EQ(json["container"]["processes"], "held");
}

TEST(Inspect, OfOneThatHasLeft) {
  api::v1::InspectResponse inspected = inspected_waiter();
  inspected.clear_container();
  EXPECT_TRUE(text_of(inspected).starts_with("not on a (any more)\n\nSESSION"));
  EXPECT_TRUE(nlohmann::json::parse(dump(json_of(inspected)))["container"].is_null());
}

TEST(List, AWaitIsShownWithTheState) {
  api::v1::ListResponse list;
  *list.add_containers() = inspected_waiter().container();
  EXPECT_NE(table_of(list).find("migrating (waits for b)"), std::string::npos);
  list.mutable_containers(0)->clear_waits_for();
  EXPECT_EQ(table_of(list).find("waits"), std::string::npos);
  EXPECT_FALSE(json_of(list)["containers"][0].contains("waits_for"));
}

TEST(Resolve, WithoutAConfirmationSaysTheRiskAndHowToConfirm) {
  api::v1::ResolveRequest request;
  request.set_id("db");
  request.set_resolution(api::v1::RESOLUTION_GONE);
  api::v1::ResolveResponse response;
  response.set_peer("b");
  response.set_known("committed");
  response.set_plan("it is removed");
  response.set_risk("it is lost");
  EXPECT_EQ(text_of(request, response),
            "godwit: db is not resolved: it waits for b, which has to be named\n"
            "  known: committed\n"
            "  would be done: it is removed\n"
            "  risk: it is lost\n"
            "Only if b never comes back: godwit resolve db --gone --peer b\n");
  response.set_done(true);
  EXPECT_EQ(text_of(request, response), "db: it is removed\n");
}

TEST(Timeline, IsInOrderIndentedAndDrawnOnOneScale) {
  const std::string text = timeline_of(result_with_timeline(), 80);
  const size_t preflight = text.find("preflight");
  const size_t cutover = text.find("source  cutover");
  const size_t freeze = text.find("source    freeze");
  const size_t run = text.find("target    run");
  ASSERT_NE(run, std::string::npos) << text;
  EXPECT_LT(preflight, cutover);
  EXPECT_LT(cutover, freeze);
  EXPECT_LT(freeze, run);
  EXPECT_NE(text.find("1000900"), std::string::npos);
  // Outside of the cutover there is no bar.
  const std::string first = text.substr(preflight, text.find('\n', preflight) - preflight);
  EXPECT_EQ(first.find('='), std::string::npos) << text;
}

TEST(Terminal, BarsStayInside) {
  EXPECT_EQ(format_bar(0, 10, 10, 10), "==========");
  EXPECT_EQ(format_bar(9, 1, 10, 10), "         =");
  EXPECT_EQ(format_bar(10, 5, 10, 10), "         =");
  EXPECT_EQ(format_bar(0, 0, 10, 4), "=   ");
  EXPECT_EQ(format_bar(0, 0, 0, 4), "=   ");
}

TEST(Terminal, NobodyDrivesItFromAfar) {
  EXPECT_EQ(format_table({{"A", "B"}, {"l\x1bng\nr", "x"}}), "A       B\nl ng r  x\n");
}

}  // namespace
}  // namespace godwit::tools
