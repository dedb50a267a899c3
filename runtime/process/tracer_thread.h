// A thread that traces, and ends. With it ends its hold on what it has seized: the kernel detaches those
// threads in whatever state they are, takes its requests to stop back, and lets them run (puppet.h).
#pragma once

#include <functional>

namespace godwit::runtime {

// Runs `work` on such a thread, and returns when nothing is traced by it any more.
void run_as_tracer(const std::function<void()>& work);

}  // namespace godwit::runtime
