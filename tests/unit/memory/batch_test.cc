// Batches as they come from a peer that may send anything.
#include "runtime/memory/batch.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

#include "base/fd.h"
#include "runtime/memory/page_sink.h"

namespace godwit::runtime {
namespace {

constexpr size_t kBuffer = size_t{256} << 10;

std::vector<std::byte> sample(size_t pages) {
  std::vector<std::byte> buffer(kBuffer);
  BatchBuilder batch(buffer);
  for (size_t i = 0; i < pages; ++i) {
    std::memset(batch.free_pages(), static_cast<int>(i + 1), kPageSize);
    batch.add_page(SpaceKind::kSharedMemory, 7, i * 2 * kPageSize, batch.free_pages());
    batch.add_zero_page(SpaceKind::kSharedMemory, 7, (i * 2 + 1) * kPageSize);
  }
  buffer.resize(batch.finish());
  return buffer;
}

TEST(Batch, HoldsWhatWasAdded) {
  std::vector<std::byte> buffer(kBatchBytesMin);
  BatchBuilder batch(buffer);
  const size_t room = batch.room();
  EXPECT_EQ(room, 15U);  // 16 pages less the tables
  for (size_t i = 0; i < room; ++i) {
    ASSERT_GE(batch.room(), 1U);
    std::byte* page = batch.free_pages();
    std::memset(page, static_cast<int>(i + 1), kPageSize);
    batch.add_page(SpaceKind::kProcess, 5, (i < 4 ? i : i * 3) * kPageSize, page);
  }
  EXPECT_EQ(batch.room(), 0U);
  const size_t size = batch.finish();
  ASSERT_LE(size, buffer.size());
  const auto view = BatchView::check(std::span(buffer).first(size));
  ASSERT_TRUE(view.has_value()) << view.error().to_string();
  EXPECT_EQ(view->extents().size(), room - 3);
  EXPECT_EQ(view->extents().front().size, 4 * kPageSize);
  EXPECT_EQ(view->payload().size(), room * kPageSize);
  for (size_t i = 0; i < room; ++i)
    EXPECT_EQ(view->payload()[i * kPageSize + 9], static_cast<std::byte>(i + 1));
}

TEST(Batch, ClosesHoles) {
  std::vector<std::byte> buffer(kBatchBytesMin);
  BatchBuilder batch(buffer);
  std::byte* pages = batch.free_pages();
  for (size_t i = 0; i < 8; ++i) std::memset(pages + i * kPageSize, static_cast<int>(i), kPageSize);
  for (size_t i = 1; i < 8; i += 2)
    batch.add_page(SpaceKind::kProcess, 1, i * kPageSize, pages + i * kPageSize);
  const auto view = BatchView::check(std::span(buffer).first(batch.finish()));
  ASSERT_TRUE(view.has_value());
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(view->payload()[i * kPageSize], static_cast<std::byte>(2 * i + 1));
}

TEST(Batch, EmptyIsNothing) {
  std::vector<std::byte> buffer(kBatchBytesMin);
  EXPECT_EQ(BatchBuilder(buffer).finish(), 0U);
}

TEST(Batch, RefusesEachWrongNumber) {
  const std::vector<std::byte> good = sample(3);
  ASSERT_TRUE(BatchView::check(good).has_value());
  const auto broken = [&](size_t offset, auto value) {
    std::vector<std::byte> bad = good;
    std::memcpy(bad.data() + offset, &value, sizeof value);
    return !BatchView::check(bad).has_value();
  };
  const size_t extent = sizeof(BatchHeader);
  EXPECT_TRUE(broken(offsetof(BatchHeader, magic), uint32_t{0}));
  EXPECT_TRUE(broken(offsetof(BatchHeader, extent_count), uint32_t{0xffffffff}));
  EXPECT_TRUE(broken(offsetof(BatchHeader, extent_count), uint32_t{0}));
  EXPECT_TRUE(broken(offsetof(BatchHeader, payload_offset), uint64_t{8}));
  EXPECT_TRUE(broken(offsetof(BatchHeader, payload_offset), ~uint64_t{0}));
  EXPECT_TRUE(broken(offsetof(BatchHeader, payload_size), ~uint64_t{0}));
  EXPECT_TRUE(broken(offsetof(BatchHeader, payload_size), uint64_t{4096}));
  EXPECT_TRUE(broken(extent + offsetof(Extent, space_kind), uint32_t{0}));
  EXPECT_TRUE(broken(extent + offsetof(Extent, kind), uint32_t{9}));
  EXPECT_TRUE(broken(extent + offsetof(Extent, start), uint64_t{1}));
  EXPECT_TRUE(broken(extent + offsetof(Extent, start), ~uint64_t{4095}));
  EXPECT_TRUE(broken(extent + offsetof(Extent, size), uint64_t{0}));
  EXPECT_TRUE(broken(extent + offsetof(Extent, size), ~uint64_t{4095}));
  for (size_t size = 0; size < good.size(); size += 61)
    EXPECT_FALSE(BatchView::check(std::span(good).first(size)).has_value());
}

class SinkTest : public testing::Test {
 protected:
  void SetUp() override {
    fd_ = Fd(::memfd_create("sink", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(fd_.get(), kSize), 0);
    ASSERT_TRUE(
        sink_.set_spaces({{.kind = SpaceKind::kSharedMemory, .id = 7, .fd = fd_.get(), .allowed = {}}}));
  }
  static constexpr off_t kSize = 5 * 4096 + 100;
  Fd fd_;
  PageSink sink_;
};

TEST_F(SinkTest, StoresSharedMemoryAndKeepsItsSize) {
  const auto applied = sink_.apply(sample(3));
  ASSERT_TRUE(applied.has_value()) << applied.error().to_string();
  std::vector<unsigned char> found(kSize);
  ASSERT_EQ(::pread(fd_.get(), found.data(), found.size(), 0), kSize);
  EXPECT_EQ(found[0], 1);
  EXPECT_EQ(found[2 * 4096], 2);
  EXPECT_EQ(found[3 * 4096], 0);
  EXPECT_EQ(found[5 * 4096], 0);
  EXPECT_EQ(::lseek(fd_.get(), 0, SEEK_END), kSize);
}

TEST_F(SinkTest, RefusesOtherSpacesAndBounds) {
  EXPECT_FALSE(sink_.apply(sample(4)).has_value());  // pages behind the end
  ASSERT_TRUE(sink_.set_spaces({}).has_value());
  EXPECT_FALSE(sink_.apply(sample(1)).has_value());
}

TEST_F(SinkTest, RefusesPagesOutsideOfTheAllowedRanges) {
  std::vector<std::byte> mine(4 * kPageSize);
  const uint64_t page = (reinterpret_cast<uint64_t>(mine.data()) / kPageSize + 1) * kPageSize;
  const auto batch_to = [&](uint64_t address) {
    std::vector<std::byte> buffer(kBatchBytesMin);
    BatchBuilder batch(buffer);
    std::memset(batch.free_pages(), 5, kPageSize);
    batch.add_page(SpaceKind::kProcess, 1, address, batch.free_pages());
    buffer.resize(batch.finish());
    return buffer;
  };
  ASSERT_TRUE(sink_.set_spaces({{.kind = SpaceKind::kProcess,
                                 .id = 1,
                                 .host_pid = ::getpid(),
                                 .allowed = {{page, page + kPageSize}}}}));
  EXPECT_TRUE(sink_.apply(batch_to(page)).has_value());
  EXPECT_EQ(*reinterpret_cast<unsigned char*>(page), 5);
  EXPECT_FALSE(sink_.apply(batch_to(page + kPageSize)).has_value());
  EXPECT_FALSE(sink_.apply(batch_to(page - kPageSize)).has_value());
}

TEST_F(SinkTest, SurvivesRandomBatches) {
  std::mt19937 random(4);
  const std::vector<std::byte> good = sample(3);
  int stored = 0;
  for (int turn = 0; turn < 20000; ++turn) {
    std::vector<std::byte> batch = good;
    const size_t head = sizeof(BatchHeader) + 6 * sizeof(Extent);
    for (unsigned i = random() % 4; i < 4; ++i) batch[random() % head] = static_cast<std::byte>(random());
    if (turn % 3 == 0) batch.resize(random() % batch.size());
    if (turn % 7 == 0)
      for (std::byte& byte : batch) byte = static_cast<std::byte>(random());
    stored += sink_.apply(batch).has_value() ? 1 : 0;
    ASSERT_EQ(::lseek(fd_.get(), 0, SEEK_END), kSize);
  }
  EXPECT_LT(stored, 2000);
}

}  // namespace
}  // namespace godwit::runtime
