// Quantities as people write them on a command line, and as they like to read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace godwit {

// "256MiB", "1G", "4096": bytes. K, M, G and T are powers of 1024, with or without "iB"; KB, MB, GB and TB
// are powers of 1000. Decimals are allowed ("1.5GiB").
Result<uint64_t> parse_bytes(std::string_view text);
// "20ms", "30s", "1.5s", "800us", "2m": microseconds. A unit is required, because 20 alone says nothing.
Result<uint64_t> parse_duration_us(std::string_view text);
// "1.5": thousandths of a processor, 10 (kernel's least quota) to 1,024,000.
Result<uint32_t> parse_cpus(std::string_view text);

// "1.5 GiB", "312 KiB", "17 B".
std::string format_bytes(uint64_t bytes);
// "1.2 GB/s": rates are decimal, as networks are.
std::string format_rate(uint64_t bytes_per_second);
// "850 us", "4.21 ms", "1.63 s".
std::string format_duration_us(uint64_t duration_us);
// "1.5"; 0 is "-".
std::string format_cpus(uint32_t cpu_millis);

}  // namespace godwit
