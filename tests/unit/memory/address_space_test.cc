#include "runtime/memory/address_space.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <random>

namespace godwit::runtime {
namespace {

constexpr std::string_view kMaps =
    "5581c0a00000-5581c0a02000 r--p 00001000 fe:0a 1234                       /usr/bin/a b\\012c (deleted)\n"
    "7ffc1d000000-7ffc1d021000 rw-p 00000000 00:00 0                          [stack]\n"
    "7ffc1d100000-7ffc1d101000 rwxs 00000000 00:01 77 \n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

TEST(AddressSpace, ReadsEveryFieldOfMaps) {
  const auto vmas = parse_maps(kMaps);
  ASSERT_TRUE(vmas.has_value()) << vmas.error().to_string();
  ASSERT_EQ(vmas->size(), 4U);
  const Vma& file = vmas->front();
  EXPECT_EQ(file.start, 0x5581c0a00000U);
  EXPECT_EQ(file.end, 0x5581c0a02000U);
  EXPECT_TRUE(file.readable && !file.writable && !file.executable && !file.shared);
  EXPECT_EQ(file.offset, 0x1000U);
  EXPECT_EQ(file.device_major, 0xfeU);
  EXPECT_EQ(file.device_minor, 0x0aU);
  EXPECT_EQ(file.inode, 1234U);
  EXPECT_EQ(file.name, "/usr/bin/a b\\012c (deleted)");
  EXPECT_EQ((*vmas)[1].name, "[stack]");
  EXPECT_TRUE((*vmas)[2].shared && (*vmas)[2].executable);
  EXPECT_EQ((*vmas)[2].name, "");
  EXPECT_EQ((*vmas)[3].end, 0xffffffffff601000U);
}

TEST(AddressSpace, ReadsFlagsOfSmaps) {
  const auto vmas = parse_smaps(
      "1000-2000 rw-p 00000000 00:00 0 [heap]\n"
      "Size:                  4 kB\nRss:                   4 kB\nVmFlags: rd wr mr mw me dd hg zz \n"
      "2000-3000 rw-p 00000000 00:00 0\nVmFlags: rd\n");
  ASSERT_TRUE(vmas.has_value()) << vmas.error().to_string();
  ASSERT_EQ(vmas->size(), 2U);
  EXPECT_NE((*vmas)[0].flags & vma_flag("dd"), 0U);
  EXPECT_NE((*vmas)[0].flags & vma_flag("hg"), 0U);
  EXPECT_EQ((*vmas)[0].flags & vma_flag("nh"), 0U);
  EXPECT_EQ((*vmas)[1].flags, vma_flag("rd"));
  EXPECT_EQ(vma_flag("zz"), 0U);
}

TEST(AddressSpace, RefusesWhatTheKernelWouldNotWrite) {
  for (const std::string_view text :
       {"1000-1000 rw-p 0 00:00 0\n", "2000-1000 rw-p 0 00:00 0\n", "1001-2000 rw-p 0 00:00 0\n",
        "1000-3000 rw-p 0 00:00 0\n2000-3000 rw-p 0 00:00 0\n",
        "4000-5000 rw-p 0 00:00 0\n1000-2000 rw-p 0 00:00 0\n", "1000-2000 rw-x 0 00:00 0\n",
        "1000-2000 rwp 0 00:00 0\n", "1000-2000 rw-p 0 00:00\n", "1000-2000 rw-p 0 00:00 12x\n",
        "10000000000000000-20000000000000000 rw-p 0 00:00 0\n", "-1000-2000 rw-p 0 00:00 0\n", "\n", "x\n",
        "1000-2000 rw-p 0 1ffffffff:00 0\n", "1000-2000 rw-p 0 00:00 99999999999999999999999\n"})
    EXPECT_FALSE(parse_maps(text).has_value()) << text;
  EXPECT_FALSE(parse_smaps("Size: 4 kB\n").has_value());
}

TEST(AddressSpace, TakesTheYoungerOfTornLines) {
  const auto vmas = parse_maps(
      "1000-3000 rw-p 0 00:00 0\n2000-5000 rw-p 0 00:00 0\n6000-8000 r--p 0 00:00 0\n4000-9000 rw-p 0 00:00 "
      "0\n");
  ASSERT_TRUE(vmas.has_value());
  ASSERT_EQ(vmas->size(), 3U);
  EXPECT_EQ((*vmas)[0].end, 0x2000U);
  EXPECT_EQ((*vmas)[1].end, 0x4000U);
  EXPECT_EQ((*vmas)[2].start, 0x4000U);
  EXPECT_TRUE((*vmas)[2].writable);
}

TEST(AddressSpace, SurvivesDamagedText) {
  std::mt19937 random(1);
  for (int turn = 0; turn < 20000; ++turn) {
    std::string text(kMaps);
    for (unsigned i = random() % 6; i < 6; ++i) text[random() % text.size()] = static_cast<char>(random());
    text.resize(random() % (text.size() + 1));
    const auto check = [](const auto& vmas) {
      if (!vmas) return;
      for (const Vma& vma : *vmas) ASSERT_LT(vma.start, vma.end);
    };
    check(parse_maps(text));
    check(parse_smaps(text));
  }
}

TEST(AddressSpace, SeesThisProcess) {
  void* page = ::mmap(nullptr, 3 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  for (const auto& vmas : {read_maps(::getpid()), read_smaps(::getpid())}) {
    ASSERT_TRUE(vmas.has_value()) << vmas.error().to_string();
    const auto address = reinterpret_cast<uint64_t>(page);
    EXPECT_TRUE(std::ranges::any_of(*vmas, [&](const Vma& vma) {
      return vma.start <= address && vma.end >= address + 3 * 4096 && vma.readable && !vma.writable;
    }));
  }
  ::munmap(page, 3 * 4096);
  EXPECT_FALSE(read_maps(0x7ffffff0).has_value());
}

}  // namespace
}  // namespace godwit::runtime
