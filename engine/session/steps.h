// The steps of a migration at which a fault can be ordered (fault.h): wherever a process can die with
// something begun. `godwitd steps` prints them, and the matrix of faults (tests/matrix) strikes at each.
#pragma once

#include <array>
#include <string_view>

namespace godwit::engine {

inline constexpr std::array<std::string_view, 33> kSteps = {
    // The source's, before the decision.
    "source.preflight", "source.prepare", "source.undecided",  // its record is written
    "source.round0", "source.round0.sent", "source.round", "source.round.sent", "source.standstill",
    "source.cutover", "source.frozen", "source.pages", "source.complete", "source.ready",
    "source.sealed",  // its packets are stopped
    // After it.
    "source.committed",  // "committed" is written, and not said
    "source.running",    // the target has said that it runs there
    "source.departed",   // that is written
    "source.removed",    // what was left here is removed
    // The target's, before the decision.
    "target.hello", "target.preparing",  // its record is written
    "target.container", "target.round0", "target.round", "target.frozen",
    "target.may-run",  // that is written
    "target.complete", "target.ready",
    // After it.
    "target.committed",  // the source has said so
    "target.released",   // all is done but the thaw, and "armed" may be written
    "target.armed",      // that is written
    "target.thawed",     // it runs, and that is not written
    "target.running",    // that is written, and nobody told
    "target.kept",       // its agent keeps it
};

}  // namespace godwit::engine
