#include "runtime/process/replica/seams.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

namespace godwit::runtime::rebuild {
namespace {

constexpr uint64_t kPage = 4096;

class Seams : public testing::Test {
 protected:
  void want(uint64_t first, uint64_t end) {
    auto& mapping = *wanted_.add_mappings();
    mapping.set_start(first * kPage);
    mapping.set_end(end * kPage);
    mapping.set_protection(PROT_READ | PROT_WRITE);
    mapping.set_flags(MAP_PRIVATE | MAP_ANONYMOUS);
  }
  void have(uint64_t first, uint64_t end) {
    Vma vma;
    vma.start = first * kPage;
    vma.end = end * kPage;
    have_.push_back(vma);
  }
  [[nodiscard]] std::vector<std::pair<uint64_t, uint64_t>> unmapped(Anew anew) const {
    std::vector<std::pair<uint64_t, uint64_t>> pages;
    for (const AddressRange& range : find_seams(have_, wanted_, make_address_map(wanted_), anew).unmap)
      pages.emplace_back(range.start / kPage, range.end / kPage);
    return pages;
  }
  using Pages = std::vector<std::pair<uint64_t, uint64_t>>;

  model::AddressSpace wanted_;
  std::vector<Vma> have_;
};

TEST_F(Seams, AMappingInOnePieceIsLeftAlone) {
  want(10, 20);
  have(10, 20);
  EXPECT_EQ(unmapped(Anew::kAllButTheLargest), Pages{});
  EXPECT_EQ(unmapped(Anew::kWhole), Pages{});
}

TEST_F(Seams, ABorderThatTheSourceHasTooIsLeftAlone) {
  want(10, 15);
  want(15, 20);
  have(10, 15);
  have(15, 20);
  EXPECT_EQ(unmapped(Anew::kAllButTheLargest), Pages{});
}

TEST_F(Seams, AllButTheLargestPieceAreMadeAnew) {
  want(10, 30);
  have(10, 12);
  have(12, 25);
  have(25, 30);
  EXPECT_EQ(unmapped(Anew::kAllButTheLargest), (Pages{{10, 12}, {25, 30}}));
  EXPECT_EQ(unmapped(Anew::kWhole), (Pages{{10, 30}}));
}

TEST_F(Seams, APieceThatHasMergedWithTheLeftNeighbourIsFound) {
  want(5, 10);
  want(10, 30);
  have(5, 11);
  have(11, 30);
  EXPECT_EQ(unmapped(Anew::kAllButTheLargest), (Pages{{10, 11}}));
  EXPECT_EQ(unmapped(Anew::kWhole), (Pages{{10, 30}}));
}

}  // namespace
}  // namespace godwit::runtime::rebuild
