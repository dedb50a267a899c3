#include "runtime/memory/content_table.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace godwit::runtime {
namespace {

alignas(kPageSize) constexpr std::array<std::byte, kPageSize> kZeroPage{};

// The pages that the bits of a word stand for, as ranges.
void append_bits(Ranges& ranges, uint64_t base, uint64_t bits) {
  while (bits != 0) {
    const int start = std::countr_zero(bits);
    const int end = start + std::countr_one(bits >> start);
    append_range(ranges, {base + static_cast<uint64_t>(start) * kPageSize,
                          base + static_cast<uint64_t>(end) * kPageSize});
    bits = end == 64 ? 0 : bits & (~uint64_t{0} << end);
  }
}

XXH128_hash_t place(uint64_t address, const PageHash& hash) {
  const std::array<uint64_t, 3> words{address, hash.low, hash.high};
  return XXH3_128bits(words.data(), sizeof words);
}

}  // namespace

PageHash hash_page(const std::byte* page) {
  const XXH128_hash_t hash = XXH3_128bits(page, kPageSize);
  return {.low = hash.low64, .high = hash.high64};
}

const PageHash& hash_of_zero_page() {
  static const PageHash hash = hash_page(kZeroPage.data());
  return hash;
}

bool is_zero_page(const std::byte* page) {
  for (size_t at = 0; at < kPageSize; at += 64) {
    std::array<uint64_t, 8> words;
    std::memcpy(words.data(), page + at, sizeof words);
    if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) != 0)
      return false;
  }
  return true;
}

void PageSum::add(uint64_t address, const PageHash& hash) {
  const XXH128_hash_t placed = place(address, hash);
  ++pages;
  low += placed.low64;
  high += placed.high64;
}

void PageSum::subtract(uint64_t address, const PageHash& hash) {
  const XXH128_hash_t placed = place(address, hash);
  --pages;
  low -= placed.low64;
  high -= placed.high64;
}

void PageSum::add(const PageSum& other) {
  pages += other.pages;
  low += other.low;
  high += other.high;
}

ContentTable::Chunk* ContentTable::chunk_of(uint64_t address) {
  const uint64_t base = address - address % kChunkBytes;
  if (base == last_base_) return last_chunk_;
  const auto found = chunks_.find(base);
  if (found == chunks_.end()) return nullptr;
  last_base_ = base;
  last_chunk_ = found->second.get();
  return last_chunk_;
}

const PageHash* ContentTable::find(uint64_t address) {
  const Chunk* chunk = chunk_of(address);
  if (chunk == nullptr) return nullptr;
  const uint64_t page = address % kChunkBytes / kPageSize;
  if ((chunk->present[page / 64] >> (page % 64) & 1) == 0) return nullptr;
  return &chunk->hashes[page];
}

void ContentTable::put(uint64_t address, const PageHash& hash) {
  Chunk* chunk = chunk_of(address);
  if (chunk == nullptr) {
    const uint64_t base = address - address % kChunkBytes;
    chunk = chunks_.emplace(base, std::make_unique<Chunk>()).first->second.get();
    last_base_ = base;
    last_chunk_ = chunk;
  }
  const uint64_t page = address % kChunkBytes / kPageSize;
  const uint64_t bit = uint64_t{1} << (page % 64);
  if ((chunk->present[page / 64] & bit) != 0) sum_.subtract(address, chunk->hashes[page]);
  chunk->present[page / 64] |= bit;
  chunk->hashes[page] = hash;
  sum_.add(address, hash);
}

template <typename ChunkType, typename Visit>
void ContentTable::visit_words(uint64_t base, ChunkType& chunk, Range range, Visit visit) {
  const uint64_t first = (std::max(range.start, base) - base) / kPageSize;
  const uint64_t end = (std::min(range.end, base + kChunkBytes) - base) / kPageSize;
  for (uint64_t word = first / 64; word * 64 < end; ++word) {
    uint64_t mask = ~uint64_t{0};
    if (first > word * 64) mask &= ~uint64_t{0} << (first - word * 64);
    if (end < word * 64 + 64) mask &= ~uint64_t{0} >> (word * 64 + 64 - end);
    const uint64_t hit = chunk.present[word] & mask;
    if (hit != 0) visit(base + word * 64 * kPageSize, chunk.present[word], hit);
  }
}

void ContentTable::take_range(Range range, Ranges& taken) {
  for (auto next = chunks_.lower_bound(range.start - range.start % kChunkBytes);
       next != chunks_.end() && next->first < range.end;) {
    visit_words(next->first, *next->second, range, [&](uint64_t base, uint64_t& word, uint64_t hit) {
      word &= ~hit;
      append_bits(taken, base, hit);
      for (uint64_t left = hit; left != 0; left &= left - 1) {
        const uint64_t address = base + static_cast<uint64_t>(std::countr_zero(left)) * kPageSize;
        sum_.subtract(address, next->second->hashes[address % kChunkBytes / kPageSize]);
      }
    });
    const bool empty = std::ranges::all_of(next->second->present, [](uint64_t word) { return word == 0; });
    next = empty ? chunks_.erase(next) : std::next(next);
  }
}

Ranges ContentTable::known(const Ranges& ranges) const {
  Ranges found;
  for (const Range& range : ranges)
    for (auto next = chunks_.lower_bound(range.start - range.start % kChunkBytes);
         next != chunks_.end() && next->first < range.end; ++next)
      visit_words(next->first, std::as_const(*next->second), range,
                  [&](uint64_t base, uint64_t, uint64_t hit) { append_bits(found, base, hit); });
  return found;
}

Ranges ContentTable::take(const Ranges& ranges) {
  Ranges taken;
  last_base_ = ~uint64_t{0};
  for (const Range& range : ranges) take_range(range, taken);
  return taken;
}

void ContentTable::keep_only(const Ranges& ranges) {
  Ranges dropped;
  uint64_t start = 0;
  last_base_ = ~uint64_t{0};
  for (const Range& range : ranges) {
    if (start < range.start) take_range({start, range.start}, dropped);
    start = range.end;
  }
  take_range({start, ~uint64_t{0} - kPageSize + 1}, dropped);
}

}  // namespace godwit::runtime
