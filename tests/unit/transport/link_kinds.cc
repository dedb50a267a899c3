// The links that every Linux host has.
#include "tests/unit/transport/link_test.h"

namespace godwit::transport::test {

INSTANTIATE_TEST_SUITE_P(Kinds, LinkTest,
                         testing::Values(Kind::kFake, Kind::kIoUring, Kind::kIoUringZeroCopy, Kind::kSockets),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace godwit::transport::test
