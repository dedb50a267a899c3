// Waiting until no CPU is still inside packet processing that began before.
#pragma once

#include "base/result.h"

namespace godwit::runtime {

// When it returns, every softirq that was running on any CPU when it was called has ended.
//
// A softirq cannot be preempted by a thread (local_bh_disable counts as preempt_disable), so a thread that
// has run on a CPU has seen the softirq there end: the calling thread visits every online CPU, at real-time
// priority if it may, so that busy threads do not delay it; 10-50 us a CPU. Its affinity and priority are put
// back. Where the thread may not go (cpuset) or softirqs can be preempted (PREEMPT_RT), membarrier(2)'s
// global command waits for an RCU grace period instead (milliseconds): packets are received inside RCU
// read-side sections.
Result<void> wait_for_packet_processing();

// When it returns, the packets that the network namespaces of this host had handed to themselves or each
// other (loopback, veth) when it was called have left the CPUs' queues: the last of them may be in
// processing.
//
// A queue that the kernel has left to its ksoftirqd waits for that thread's turn, so this sleeps; without
// such a queue it is one look at /proc/net/softnet_stat. Kernels before 5.10 do not tell the queues' lengths:
// there it does nothing. At most 5 ms: what a queue may hold (net.core.netdev_max_backlog) is processed by
// then, also where there is always a new packet in it.
void wait_for_queued_packets();

}  // namespace godwit::runtime
