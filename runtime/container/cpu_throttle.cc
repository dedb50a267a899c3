#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <utility>

#include "base/clock.h"
#include "base/fd.h"
#include "runtime/container/cgroup.h"
#include "runtime/container/freezer.h"

namespace godwit::runtime {
namespace {

// While throttled: short enough that clients see a slow container rather than one that stutters.
constexpr uint64_t kPeriodUs = 20'000;
// The kernel's smallest quota (kernel/sched/core.c, min_cfs_quota_period).
constexpr uint64_t kQuotaUsMin = 1000;

// Quota in thousandths of a processor, UINT64_MAX if there is none.
uint64_t millis(const std::string& quota, const std::string& period) {
  uint64_t quota_us = 0;
  uint64_t period_us = 0;
  const auto parse = [](const std::string& text, uint64_t& into) {
    return std::from_chars(text.data(), text.data() + text.size(), into).ec == std::errc();
  };
  if (!parse(quota, quota_us) || !parse(period, period_us) || period_us == 0) return UINT64_MAX;
  return quota_us * 1000 / period_us;
}

Result<std::string> first_word(const std::string& path) {
  GODWIT_ASSIGN(const std::string text, read_file(path, 4096));
  std::istringstream words(text);
  std::string word;
  if (!(words >> word)) return refuse("read", path, "it is empty");
  return word;
}

}  // namespace

Result<CpuThrottle> CpuThrottle::open(pid_t pid) {
  CpuThrottle throttle;
  const auto unified = cgroup_directory(pid, "");
  throttle.version2_ = unified && ::access((*unified + "/cpu.max").c_str(), W_OK) == 0;
  if (throttle.version2_) {
    throttle.directory_ = *unified;
    GODWIT_ASSIGN(const std::string text, read_file(*unified + "/cpu.max", 4096));
    std::istringstream words(text);
    if (!(words >> throttle.original_quota_ >> throttle.original_period_))
      return refuse("read", *unified + "/cpu.max", "it does not hold quota and period");
  } else {
    GODWIT_ASSIGN(throttle.directory_, cgroup_directory(pid, "cpu"));
    GODWIT_ASSIGN(throttle.original_quota_, first_word(throttle.directory_ + "/cpu.cfs_quota_us"));
    GODWIT_ASSIGN(throttle.original_period_, first_word(throttle.directory_ + "/cpu.cfs_period_us"));
  }
  // v2 counts cpu time even where its cpu controller is off, as in the hybrid mount.
  if (unified && ::access((*unified + "/cpu.stat").c_str(), R_OK) == 0) {
    throttle.usage_path_ = *unified + "/cpu.stat";
  } else {
    GODWIT_ASSIGN(const std::string account, cgroup_directory(pid, "cpuacct"));
    throttle.usage_path_ = account + "/cpuacct.usage";
    throttle.usage_is_ns_ = true;
  }
  GODWIT_TRY(throttle.start_measure());
  return throttle;
}

Result<uint64_t> CpuThrottle::used_us() const {
  GODWIT_ASSIGN(const uint64_t used, cgroup_number(usage_path_, usage_is_ns_ ? "" : "usage_usec"));
  return usage_is_ns_ ? used / 1000 : used;
}

Result<double> CpuThrottle::used_cpus() const {
  GODWIT_ASSIGN(const uint64_t used, used_us());
  const int64_t elapsed_us = std::max<int64_t>(1, monotonic_us() - measure_began_us_);
  return static_cast<double>(used - std::min(used, measure_used_us_)) / static_cast<double>(elapsed_us);
}

Result<void> CpuThrottle::start_measure() {
  GODWIT_ASSIGN(measure_used_us_, used_us());
  measure_began_us_ = monotonic_us();
  return {};
}

// v1 refuses a pair of values that exceeds the parent's share, and they are set one at a time: without a
// quota any period goes.
Result<void> CpuThrottle::write_bandwidth(const std::string& quota, const std::string& period) {
  if (version2_) return write_file(directory_ + "/cpu.max", quota + " " + period);
  GODWIT_TRY(write_file(directory_ + "/cpu.cfs_quota_us", "-1"));
  GODWIT_TRY(write_file(directory_ + "/cpu.cfs_period_us", period));
  return quota == "-1" ? Result<void>() : write_file(directory_ + "/cpu.cfs_quota_us", quota);
}

Result<void> CpuThrottle::limit(unsigned percent) {
  if (percent < 1 || percent > 99)
    return refuse("throttle", directory_, std::to_string(percent) + " percent is not within 1..99");
  if (!limited_) {
    GODWIT_ASSIGN(usual_cpus_, used_cpus());
  }
  const uint64_t own = millis(original_quota_, original_period_);
  const auto wanted = static_cast<uint64_t>(usual_cpus_ * percent * 10);
  const uint64_t quota_us = std::max(kQuotaUsMin, std::min(wanted, own) * kPeriodUs / 1000);
  limited_ = true;  // also if writing fails half-way: release() then still restores
  return write_bandwidth(std::to_string(quota_us), std::to_string(kPeriodUs));
}

Result<void> CpuThrottle::release() {
  if (!limited_) return {};
  GODWIT_TRY(write_bandwidth(original_quota_, original_period_));
  limited_ = false;
  return start_measure();
}

CpuThrottle::CpuThrottle(CpuThrottle&& other) noexcept {
  *this = std::move(other);
}

CpuThrottle& CpuThrottle::operator=(CpuThrottle&& other) noexcept {
  if (this == &other) return *this;
  static_cast<void>(release());
  directory_ = std::move(other.directory_);
  version2_ = other.version2_;
  original_quota_ = std::move(other.original_quota_);
  original_period_ = std::move(other.original_period_);
  usage_path_ = std::move(other.usage_path_);
  usage_is_ns_ = other.usage_is_ns_;
  measure_used_us_ = other.measure_used_us_;
  measure_began_us_ = other.measure_began_us_;
  usual_cpus_ = other.usual_cpus_;
  limited_ = std::exchange(other.limited_, false);
  return *this;
}

// A cgroup that is gone with its container has no quota to restore; nobody is left to hear of anything else.
CpuThrottle::~CpuThrottle() {
  static_cast<void>(release());
}

}  // namespace godwit::runtime
