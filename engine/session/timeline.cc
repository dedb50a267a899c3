#include "engine/session/timeline.h"

namespace godwit::engine {

void Timeline::Phase::end() {
  if (timeline_ == nullptr) return;
  timeline_->add(name_, start_us_, monotonic_us());
  timeline_ = nullptr;
}

void Timeline::add(const std::string& phase, int64_t start_us, int64_t end_us) {
  model::TimelineEntry& entry = entries_.emplace_back();
  entry.set_side(side_);
  entry.set_phase(phase);
  entry.set_start_us(start_us);
  entry.set_duration_us(end_us - start_us);
}

void Timeline::append(const Timeline& other) {
  entries_.insert(entries_.end(), other.entries_.begin(), other.entries_.end());
}

}  // namespace godwit::engine
