// Every state that the commit machine can bring the world into, within the bounds stated below: never two
// running, never a state from which nothing leads to one running, nothing deleted after the decision. And the
// proof that this test would notice: machines that are out of order, each of which is found.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "tests/unit/commit/world.h"

namespace godwit::engine::model_check {
namespace {

struct Verdict {
  size_t states = 0;
  size_t transitions = 0;
  size_t settled = 0;
  std::string fault;  // what is wrong
  std::string story;  // how it comes about
};

class Exploration {
 public:
  Exploration(const Rules& rules, const Budget& budget) : rules_(rules), budget_(budget) {}

  Verdict run() {
    visit(first_world(), 0, "");
    for (uint32_t at = 0; at < worlds_.size() && verdict_.fault.empty(); ++at) expand(at);
    verdict_.states = worlds_.size();
    if (verdict_.fault.empty()) find_dead_ends();
    return verdict_;
  }

 private:
  struct Arrow {
    uint32_t from;
    uint32_t to;
  };

  uint32_t visit(const World& world, uint32_t from, const char* what) {
    const auto [found, fresh] = numbers_.try_emplace(world, static_cast<uint32_t>(worlds_.size()));
    if (!fresh) return found->second;
    worlds_.push_back(&found->first);
    origin_.push_back({from, what});
    if (const std::string wrong = violation(world); !wrong.empty()) blame(found->second, wrong);
    return found->second;
  }

  void expand(uint32_t at) {
    for_each_successor(*worlds_[at], rules_, budget_, [&](const World& next, Cause cause, const char* what) {
      if (next == *worlds_[at]) return;
      ++verdict_.transitions;
      const uint32_t to = visit(next, at, what);
      if (cause == Cause::kOurs) arrows_.push_back({.from = at, .to = to});
    });
  }

  // Backwards from what is settled, along what happens by itself.
  void find_dead_ends() {
    std::vector<uint32_t> first(worlds_.size() + 1, 0);
    for (const Arrow& arrow : arrows_) ++first[arrow.to + 1];
    for (size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
    std::vector<uint32_t> before(arrows_.size());
    std::vector<uint32_t> next = first;
    for (const Arrow& arrow : arrows_) before[next[arrow.to]++] = arrow.from;
    std::vector<bool> leads(worlds_.size(), false);
    std::vector<uint32_t> work;
    for (uint32_t i = 0; i < worlds_.size(); ++i)
      if (is_settled(*worlds_[i])) leads[i] = true, work.push_back(i);
    verdict_.settled = work.size();
    while (!work.empty()) {
      const uint32_t at = work.back();
      work.pop_back();
      for (uint32_t k = first[at]; k < first[at + 1]; ++k)
        if (!leads[before[k]]) leads[before[k]] = true, work.push_back(before[k]);
    }
    for (uint32_t i = 0; i < worlds_.size(); ++i)
      if (!leads[i]) return blame(i, "nothing leads from here to one that runs");
  }

  void blame(uint32_t at, const std::string& fault) {
    verdict_.fault = fault;
    std::vector<std::string> steps;
    for (uint32_t i = at; i != 0; i = origin_[i].first)
      steps.push_back(fmt::format("{} => {}", origin_[i].second, describe(*worlds_[i])));
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) verdict_.story += "\n  " + *step;
  }

  const Rules& rules_;
  const Budget& budget_;
  std::unordered_map<World, uint32_t, WorldHash> numbers_;
  std::vector<const World*> worlds_;
  std::vector<std::pair<uint32_t, const char*>> origin_;
  std::vector<Arrow> arrows_;
  Verdict verdict_;
};

void expect_sound(const char* what, const Budget& budget) {
  const int64_t begun_us = monotonic_us();
  const Rules rules;
  const Verdict verdict = Exploration(rules, budget).run();
  fmt::print("{}: {} states, {} transitions, {} settled, {:.1f} s: {}\n", what, verdict.states,
             verdict.transitions, verdict.settled, static_cast<double>(monotonic_us() - begun_us) / 1e6,
             verdict.fault.empty() ? "no violation" : verdict.fault);
  EXPECT_EQ(verdict.fault, "") << verdict.story;
  // Were the world too small to go wrong, nothing would be proven.
  EXPECT_GT(verdict.states, 1000U);
  EXPECT_GT(verdict.settled, 1U);
}

void expect_found(const char* what, const Rules& rules, const std::string& fault) {
  // No more than it takes to go wrong.
  const Verdict verdict = Exploration(rules, {.sessions = 1, .crashes = 2, .refusals = 1}).run();
  fmt::print("{}: found after {} states: {}\n", what, verdict.states, verdict.fault);
  EXPECT_EQ(verdict.fault, fault) << verdict.story;
}

TEST(Exploration, OneMigrationWithThreeCrashes) {
  expect_sound("one migration, three crashes", {.sessions = 1, .crashes = 3, .refusals = 2});
}

TEST(Exploration, ThereAndOnAndBackWithCrashes) {
#ifdef __SANITIZE_ADDRESS__
  expect_sound("A to B to C to B, one crash", {.sessions = 3, .crashes = 1, .refusals = 0});
#else
  expect_sound("A to B to C to B, three crashes and a refused write",
               {.sessions = 3, .crashes = 3, .refusals = 1});
#endif
}

// What nobody has resolved is decided by evidence alone.
TEST(Resolve, DoesNothingUnlessItsUserSaysSo) {
  for (int state = 0; state <= static_cast<int>(SessionState::kNeverRan); ++state)
    for (const Copy copy : {Copy::kUnknown, Copy::kRuns, Copy::kHeld, Copy::kGone, Copy::kGoneUnrun})
      EXPECT_FALSE(resolve(static_cast<SessionState>(state), copy, Resolution::kInvalid));
}

TEST(Resolve, IsForWhatWaitsForAnotherHost) {
  constexpr auto kHere = Resolution::kRunsHere;
  constexpr auto kGone = Resolution::kGone;
  EXPECT_EQ(resolve(SessionState::kCommitted, Copy::kHeld, kHere)->order, Order::kGoOnHere);
  EXPECT_EQ(resolve(SessionState::kCommitted, Copy::kHeld, kHere)->before, SessionState::kResumed);
  EXPECT_EQ(resolve(SessionState::kCommitted, Copy::kHeld, kGone)->order, Order::kRemoveRemains);
  EXPECT_EQ(resolve(SessionState::kMayRun, Copy::kHeld, kHere)->order, Order::kLetRun);
  EXPECT_EQ(resolve(SessionState::kArmed, Copy::kHeld, kGone)->order, Order::kDestroy);
  for (const auto state : {SessionState::kUndecided, SessionState::kAborted, SessionState::kResumed,
                           SessionState::kDeparted, SessionState::kRunning, SessionState::kNeverRan})
    EXPECT_FALSE(resolve(state, Copy::kHeld, kHere));
}

TEST(BrokenMachine, AbsenceAsAnAnswerIsFound) {
  Rules rules;
  rules.target_evidence = [](SessionState state, uint64_t incarnation, uint64_t highest) {
    if (state == SessionState::kInvalid) return Evidence::kNeverRan;
    return target_evidence(state, incarnation, highest);
  };
  expect_found("absence as an answer", rules, "two run");
}

TEST(BrokenMachine, DeletionAfterTheDecisionIsFound) {
  Rules rules;
  rules.target_move = [](SessionState state, Copy copy, Evidence source) {
    if (state == SessionState::kMayRun && source == Evidence::kSilence)
      return Move{.before = {}, .order = Order::kDestroy, .after = SessionState::kNeverRan};
    return target_move(state, copy, source);
  };
  expect_found("deletion after the decision", rules, "a container is deleted after the decision");
}

TEST(BrokenMachine, VisibleBeforeDurableIsFound) {
  Rules rules;
  rules.visible_is_durable = false;
  expect_found("visible before durable", rules, "a container is deleted after the decision");
}

TEST(BrokenMachine, NoIncarnationIsFound) {
  Rules rules;
  rules.target_evidence = [](SessionState state, uint64_t, uint64_t) { return target_evidence(state, 0, 0); };
  rules.may_arrive = [](uint64_t, uint64_t) { return true; };
  expect_found("no incarnation", rules, "nothing leads from here to one that runs");
}

TEST(BrokenMachine, ReadyBeforeMayRunIsFound) {
  Rules rules;
  rules.may_run_before_ready = false;
  expect_found("run before may-run", rules, "a container is deleted after the decision");
}

}  // namespace
}  // namespace godwit::engine::model_check
