// The addresses that this host has for itself, which no container may take.
#pragma once

#include "base/result.h"
#include "engine/protocol/container.pb.h"

namespace godwit::engine {

// Neither the record's address nor its MAC address (if it has one yet) belongs to an interface of this host.
Result<void> check_not_of_host(const model::ContainerRecord& record);

}  // namespace godwit::engine
