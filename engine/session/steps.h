// The steps of a migration at which a fault can be ordered (fault.h): wherever a process can die with
// something begun. `godwitd steps` prints them, and the matrix of faults (tests/matrix) strikes at each.
#pragma once

#include <array>
#include <string_view>

namespace godwit::engine {

// In the order of a migration; from source.committed on it is decided.
inline constexpr std::array<std::string_view, 33> kSteps = {
    "source.preflight", "source.prepare",
    "source.undecided",  // its record is written
    "target.hello",
    "target.preparing",  // its record is written
    "target.container", "source.round0",  "target.round0",     "source.round0.sent", "source.standstill",
    "source.round",     "target.round",   "source.round.sent", "source.cutover",     "source.frozen",
    "target.frozen",    "source.pages",   "source.complete",   "target.complete",
    "target.may-run",  // that is written
    "target.ready",     "source.ready",
    "source.sealed",     // its packets are stopped
    "source.committed",  // that is written, and not said
    "target.committed",  // the source has said so
    "target.released",   // all is done but the thaw, and "armed" may be written
    "target.armed",      // that is written
    "target.thawed",     // it runs, and that is not written
    "target.running",    // that is written, and nobody told
    "source.running",    // the target has said that it runs there
    "source.departed",   // that is written
    "source.removed",    // what was left here is removed
    "target.kept",       // its agent keeps it
};

}  // namespace godwit::engine
