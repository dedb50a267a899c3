// The link that needs an RDMA device: tests/lab/vm gives one.
#include "tests/unit/transport/link_test.h"

namespace godwit::transport::test {

INSTANTIATE_TEST_SUITE_P(Kinds, LinkTest, testing::Values(Kind::kRdma),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace godwit::transport::test
