#include "base/units.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

TEST(ParseBytes, TakesBinaryAndDecimalUnits) {
  EXPECT_EQ(*parse_bytes("4096"), 4096U);
  EXPECT_EQ(*parse_bytes("256MiB"), 256ULL << 20);
  EXPECT_EQ(*parse_bytes("256M"), 256ULL << 20);
  EXPECT_EQ(*parse_bytes("1G"), 1ULL << 30);
  EXPECT_EQ(*parse_bytes("1.5GiB"), 3ULL << 29);
  EXPECT_EQ(*parse_bytes("2 KB"), 2000U);
  EXPECT_EQ(*parse_bytes("0"), 0U);
}

TEST(ParseBytes, RefusesNonsenseAndSaysWhy) {
  for (const char* text : {"", "MiB", "-1G", "1X", "1GiBs", "nan", "inf", "1e3", "99999999999T", "0x10"})
    EXPECT_FALSE(parse_bytes(text)) << text;
  EXPECT_NE(parse_bytes("1X").error().to_string().find("unknown unit 'X'"), std::string::npos);
}

TEST(ParseDuration, NeedsAUnit) {
  EXPECT_EQ(*parse_duration_us("20ms"), 20'000U);
  EXPECT_EQ(*parse_duration_us("30s"), 30'000'000U);
  EXPECT_EQ(*parse_duration_us("1.5s"), 1'500'000U);
  EXPECT_EQ(*parse_duration_us("800us"), 800U);
  EXPECT_EQ(*parse_duration_us("2m"), 120'000'000U);
  EXPECT_FALSE(parse_duration_us("20"));
  EXPECT_FALSE(parse_duration_us("20MiB"));
}

TEST(ParseCpus, HasBounds) {
  EXPECT_EQ(*parse_cpus("1.5"), 1500U);
  EXPECT_EQ(*parse_cpus("0.01"), 10U);
  EXPECT_FALSE(parse_cpus("0"));
  EXPECT_FALSE(parse_cpus("2000"));
  EXPECT_FALSE(parse_cpus("1cpu"));
}

TEST(Format, ReadsWell) {
  EXPECT_EQ(format_bytes(17), "17 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(256ULL << 20), "256 MiB");
  EXPECT_EQ(format_rate(1'240'000'000), "1.2 GB/s");
  EXPECT_EQ(format_rate(0), "0 B/s");
  EXPECT_EQ(format_duration_us(850), "850 us");
  EXPECT_EQ(format_duration_us(4210), "4.21 ms");
  EXPECT_EQ(format_duration_us(1'630'000), "1.63 s");
  EXPECT_EQ(format_cpus(0), "-");
  EXPECT_EQ(format_cpus(1500), "1.5");
}

}  // namespace
}  // namespace godwit
