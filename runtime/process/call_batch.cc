#include <cstring>

#include "runtime/process/puppet.h"

namespace godwit::runtime {
namespace {

constexpr size_t kAlignment = 16;

size_t aligned(size_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

CallBatch::Place CallBatch::room(uint64_t size) {
  const Place place{.offset = data_.size(), .size = size};
  data_.resize(data_.size() + aligned(size));
  return place;
}

CallBatch::Place CallBatch::data(std::span<const std::byte> bytes) {
  const Place place = room(bytes.size());
  std::ranges::copy(bytes, data_.begin() + static_cast<ptrdiff_t>(place.offset));
  return place;
}

CallBatch::Place CallBatch::text(const std::string& text) {
  return data(std::as_bytes(std::span(text.c_str(), text.size() + 1)));
}

size_t CallBatch::call(long number, std::initializer_list<Argument> arguments, std::string what) {
  const size_t index = call_may_fail(number, arguments);
  calls_.back().may_fail = false;
  calls_.back().what = std::move(what);
  return index;
}

size_t CallBatch::call_may_fail(long number, std::initializer_list<Argument> arguments) {
  Call call{.number = static_cast<uint64_t>(number),
            .arguments = {},
            .result = -ECANCELED,
            .may_fail = true,
            .what = {}};
  std::copy_n(arguments.begin(), std::min(arguments.size(), std::size(call.arguments)), call.arguments);
  calls_.push_back(std::move(call));
  return calls_.size() - 1;
}

void CallBatch::link(Place where, uint64_t offset, Place target) {
  links_.push_back({.where = where.offset + offset, .target = target.offset, .target_size = target.size});
}

std::span<const std::byte> CallBatch::bytes(Place place) const {
  if (place.offset > data_.size() || place.size > data_.size() - place.offset) return {};
  return std::span(data_).subspan(place.offset, place.size);
}

}  // namespace godwit::runtime
