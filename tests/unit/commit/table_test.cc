// The table of moves in docs/protocol.md is the machine's: it is made here from all values that a move
// depends on, and compared with what the page has between its two marks.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "engine/commit/machine.h"

namespace godwit::engine {
namespace {

constexpr const char* kPage = GODWIT_SOURCE_ROOT "/docs/protocol.md";
constexpr size_t kPageBytesMax = size_t{1} << 20;
constexpr const char* kWriteVariable = "GODWIT_WRITE_TABLE";
const std::string kBegin = "<!-- moves: made by tests/unit/commit/table_test.cc -->\n";
const std::string kEnd = "<!-- end of moves -->\n";

constexpr std::array kCopies = {Copy::kUnknown, Copy::kRuns, Copy::kHeld, Copy::kGone, Copy::kGoneUnrun};
constexpr std::array kSaid = {Evidence::kSilence,  Evidence::kNoRecord,  Evidence::kPending,
                              Evidence::kAborted,  Evidence::kCommitted, Evidence::kResumed,
                              Evidence::kNeverRan, Evidence::kRan};
using MoveOf = std::function<Move(Copy, Evidence)>;

// For all of `copies` and all of `said` it is the same move.
struct Row {
  std::vector<Copy> copies;
  std::vector<Evidence> said;
  Move move;
};

// Values for which `same` holds are put together, in the order of the first of each group.
template <typename Value, typename Same>
std::vector<std::vector<Value>> group(const auto& values, const Same& same) {
  std::vector<std::vector<Value>> groups;
  for (const Value value : values) {
    const auto found = std::ranges::find_if(groups, [&](const auto& g) { return same(g.front(), value); });
    if (found == groups.end())
      groups.push_back({value});
    else
      found->push_back(value);
  }
  return groups;
}

// Large groups of answers are called "anything else": they come last.
void put_else_last(std::vector<std::vector<Evidence>>& groups) {
  std::ranges::stable_sort(groups, {}, [](const auto& said) { return said.size() > kSaid.size() / 2; });
}

std::vector<Row> by_copy(const MoveOf& move_of) {
  std::vector<Row> rows;
  const auto alike = [&](Copy a, Copy b) {
    return std::ranges::all_of(kSaid, [&](Evidence said) { return move_of(a, said) == move_of(b, said); });
  };
  for (const auto& copies : group<Copy>(kCopies, alike)) {
    const auto moved = [&](Evidence said) { return move_of(copies.front(), said); };
    auto answers = group<Evidence>(kSaid, [&](Evidence a, Evidence b) { return moved(a) == moved(b); });
    put_else_last(answers);
    for (const auto& said : answers) rows.push_back({copies, said, moved(said.front())});
  }
  return rows;
}

std::vector<Row> by_evidence(const MoveOf& move_of) {
  std::vector<Row> rows;
  auto answers = group<Evidence>(kSaid, [&](Evidence a, Evidence b) {
    return std::ranges::all_of(kCopies, [&](Copy copy) { return move_of(copy, a) == move_of(copy, b); });
  });
  put_else_last(answers);
  for (const auto& said : answers) {
    const auto moved = [&](Copy copy) { return move_of(copy, said.front()); };
    for (const auto& copies : group<Copy>(kCopies, [&](Copy a, Copy b) { return moved(a) == moved(b); }))
      rows.push_back({copies, said, moved(copies.front())});
  }
  return rows;
}

template <typename Value>
std::string names(const std::vector<Value>& values) {
  std::string text;
  for (const Value value : values) text += (text.empty() ? "" : " / ") + std::string(to_string(value));
  return text;
}

std::string name_of(const std::optional<SessionState>& state) {
  return state ? to_string(*state) : "";
}

std::string name_of_answers(const std::vector<Evidence>& said) {
  if (said.size() == kSaid.size()) return "anything";
  return said.size() > kSaid.size() / 2 ? "anything else" : names(said);
}

std::string table_of(SessionState state, const MoveOf& move_of) {
  std::vector<Row> rows = by_copy(move_of);
  if (std::vector<Row> others = by_evidence(move_of); others.size() < rows.size()) rows = std::move(others);
  std::string text;
  for (const Row& row : rows)
    text += fmt::format("| {} | {} | {} | {} | {} | {} |\n", to_string(state),
                        row.copies.size() == kCopies.size() ? "any" : names(row.copies),
                        name_of_answers(row.said), name_of(row.move.before), to_string(row.move.order),
                        name_of(row.move.after));
  return text;
}

std::string table_of_moves() {
  constexpr int kLastState = static_cast<int>(SessionState::kNeverRan);
  std::string text =
      "| state | container here | the other side says | write | order | then write |\n"
      "|---|---|---|---|---|---|\n";
  for (int value = static_cast<int>(SessionState::kUndecided); value <= kLastState; ++value) {
    const auto state = static_cast<SessionState>(value);
    const auto move = belongs_to(state, Side::kSource) ? source_move : target_move;
    text += table_of(state, [&](Copy copy, Evidence said) { return move(state, copy, said); });
  }
  return text;
}

TEST(Table, SaysWhatTheMachineDoes) {
  const auto page = read_file(kPage, kPageBytesMax);
  ASSERT_TRUE(page) << page.error().to_string();
  const size_t begin = page->find(kBegin);
  const size_t end = page->find(kEnd);
  ASSERT_TRUE(begin != std::string::npos && end != std::string::npos && begin < end)
      << kPage << " has lost the two lines between which the table of moves stands. Put them back:\n"
      << kBegin << kEnd;
  const size_t table = begin + kBegin.size();
  const std::string wanted = table_of_moves();
  if (::getenv(kWriteVariable) != nullptr) {
    const auto written = write_file(kPage, page->substr(0, table) + wanted + page->substr(end));
    ASSERT_TRUE(written) << written.error().to_string();
    return;
  }
  EXPECT_EQ(page->substr(table, end - table), wanted)
      << "The machine moves otherwise than " << kPage
      << " says. If the machine is right, write its table there "
      << "and commit it:\n  " << kWriteVariable << "=1 "
      << std::filesystem::read_symlink("/proc/self/exe").string();
}

}  // namespace
}  // namespace godwit::engine
