// What this host can do, and how to get what it lacks.
#pragma once

#include <string>

#include "tools/api/godwit.pb.h"

namespace godwit::tools {

// Looks; changes nothing. Takes some 10 ms (runc is asked for its version).
api::v1::DoctorResponse examine_host(const std::string& name, const std::string& cni_plugins,
                                     const std::string& bridge);

}  // namespace godwit::tools
