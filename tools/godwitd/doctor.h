// What this host can do, and how to get what it lacks, in the words of the API (engine/host/examine.h looks).
#pragma once

#include "engine/host/keeper.h"
#include "tools/api/godwit.pb.h"

namespace godwit::tools {

api::v1::DoctorResponse examine_host(const engine::KeeperOptions& options);

}  // namespace godwit::tools
