// The heap of a worker process.
#pragma once

namespace godwit::engine {

// The frozen round copies whole socket queues from message to message, and a first touch of a page costs more
// than a hundred times what copying it costs. So memory is taken from the kernel ahead, and kept.

// From now on what is freed stays with the process (mallopt(3)). Once, before it starts threads.
void keep_heap();
// Leaves some memory free that was touched already. Before the container is frozen.
void warm_heap();

}  // namespace godwit::engine
