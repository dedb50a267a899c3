// epoll(7): which descriptors an instance watches. A watch belongs to an open file description *and* the
// number it was added under; the number may be another process's by now.
#pragma once

#include "runtime/process/descriptors/fdinfo.h"
#include "runtime/process/descriptors/source.h"
#include "runtime/process/descriptors/survey.h"

namespace godwit::runtime {

// Fails with EAGAIN when a number no longer leads to what is watched (closed there, kept open elsewhere).
Result<void> read_epoll(const Survey& survey, size_t index, const FdInfo& info,
                        const std::vector<CapturedProcess>& processes, Moment moment, model::Epoll& epoll);

}  // namespace godwit::runtime
