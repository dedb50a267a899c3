// Sets of ranges and the table of contents, against std::set and std::map.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <random>
#include <set>

#include "runtime/memory/content_table.h"
#include "runtime/memory/range_set.h"

namespace godwit::runtime {
namespace {

using Pages = std::set<uint64_t>;

Ranges random_ranges(std::mt19937_64& random, uint64_t pages_max) {
  Ranges ranges;
  for (size_t i = random() % 8; i > 0; --i) {
    const uint64_t start = random() % pages_max;
    ranges.push_back({start * kPageSize, (start + 1 + random() % (pages_max / 4)) * kPageSize});
  }
  normalize(ranges);
  return ranges;
}

Pages pages_of(const Ranges& ranges) {
  Pages pages;
  for (const Range& range : ranges)
    for (uint64_t at = range.start; at < range.end; at += kPageSize) pages.insert(at);
  return pages;
}

void expect_set(const Ranges& ranges) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    ASSERT_LT(ranges[i].start, ranges[i].end);
    ASSERT_TRUE(i == 0 || ranges[i - 1].end < ranges[i].start);
  }
}

TEST(RangeSet, BehavesAsSetsDo) {
  std::mt19937_64 random(2);
  for (int turn = 0; turn < 3000; ++turn) {
    const Ranges left = random_ranges(random, 64);
    const Ranges right = random_ranges(random, 64);
    const Pages one = pages_of(left);
    const Pages other = pages_of(right);
    Pages common;
    std::ranges::set_intersection(one, other, std::inserter(common, common.end()));
    Pages rest;
    std::ranges::set_difference(one, other, std::inserter(rest, rest.end()));
    expect_set(intersect(left, right));
    expect_set(subtract(left, right));
    ASSERT_EQ(pages_of(intersect(left, right)), common);
    ASSERT_EQ(pages_of(subtract(left, right)), rest);
    ASSERT_EQ(total_size(left), one.size() * kPageSize);
  }
}

TEST(ContentTable, BehavesAsAMapDoes) {
  std::mt19937_64 random(3);
  constexpr uint64_t kPages = 4096;
  ContentTable table;
  std::map<uint64_t, uint64_t> model;
  const auto known_in = [&](const Pages& pages) {
    Pages known;
    for (const uint64_t page : pages)
      if (model.contains(page)) known.insert(page);
    return known;
  };
  for (int turn = 0; turn < 4000; ++turn) {
    const uint64_t what = random() % 16;
    if (what == 0) {
      const Ranges ranges = random_ranges(random, kPages);
      const Pages expected = known_in(pages_of(ranges));
      ASSERT_EQ(pages_of(table.known(ranges)), expected);
      ASSERT_EQ(pages_of(table.take(ranges)), expected);
      for (const uint64_t page : expected) model.erase(page);
    } else if (what == 1 && turn % 8 == 0) {
      const Ranges ranges = random_ranges(random, kPages * 2);
      const Pages kept = pages_of(ranges);
      table.keep_only(ranges);
      std::erase_if(model, [&](const auto& entry) { return !kept.contains(entry.first); });
    } else {
      for (int i = 0; i < 32; ++i) {
        const uint64_t page = random() % kPages * kPageSize;
        table.put(page, {.low = page + static_cast<uint64_t>(turn), .high = 1});
        model[page] = page + static_cast<uint64_t>(turn);
      }
    }
    ASSERT_EQ(table.pages(), model.size());
    const uint64_t page = random() % kPages * kPageSize;
    const PageHash* hash = table.find(page);
    ASSERT_EQ(hash != nullptr, model.contains(page));
    ASSERT_TRUE(hash == nullptr || hash->low == model[page]);
  }
}

TEST(ContentTable, TellsPagesApart) {
  std::array<std::byte, kPageSize> page{};
  EXPECT_TRUE(is_zero_page(page.data()));
  EXPECT_EQ(hash_page(page.data()), hash_of_zero_page());
  for (const size_t at : {size_t{0}, size_t{63}, size_t{64}, size_t{2048}, size_t{kPageSize - 1}}) {
    page[at] = std::byte{1};
    EXPECT_FALSE(is_zero_page(page.data())) << at;
    EXPECT_NE(hash_page(page.data()), hash_of_zero_page());
    page[at] = std::byte{0};
  }
}

}  // namespace
}  // namespace godwit::runtime
