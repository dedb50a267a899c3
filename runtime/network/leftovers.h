// What a worker that died left of its parking (runtime/network/parking.h), for the agent that survives it, or
// the next one. All that is needed is the attachment, which is recorded (Network::find).
//
// What stays after a death at any moment: the programs at the container's and at the host's interface and at
// the container's loopback (runtime/network/loopback_gate.h), with the state they had. If that was "parked",
// they go on keeping every frame out of the container, and if it was "sealed", every frame of the container
// in; the tap has gone with its process, and the frames are dropped, as bpf_redirect(2) does to an interface
// that is not there. TCP sends them again. The agent says which way it ends:
//
//   the container goes on here   freezer thaws, sockets are healed, then unpark_leftovers()
//   it belongs to another host   hold_leftovers(), and at the end Network::detach()
//   not known yet                nothing: parked and sealed it may stay for as long as it takes; or
//                                hold_leftovers(), which unpark_leftovers() undoes
//
// Each is a matter of milliseconds, may be called again after it succeeded or failed, and succeeds where
// nothing is left. Not while a worker of this container lives: they would take its programs away. They work
// in the network namespace of the calling thread, which is that of the host.
#pragma once

#include "base/result.h"
#include "runtime/network/network.h"

namespace godwit::runtime {

// The container goes on here: the programs are removed, the port is open, and frames flow. After an error it
// may still be cut off: to be called again.
Result<void> unpark_leftovers(const Attachment& attachment);
// The container belongs to another host: its port is held, and this host's bridge forgets that it was here.
// The programs stay in front of it until the interfaces go. No such interface is success.
Result<void> hold_leftovers(const Attachment& attachment);

// The first half of unpark_leftovers(), without the port: for who parks again.
Result<void> remove_park_programs(const Attachment& attachment);

}  // namespace godwit::runtime
