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
