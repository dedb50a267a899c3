// The place of a unix socket that is bound to a path, between the moment it is made and the decision.
//
// The root file system is shared by both hosts. Until the decision the file at a socket's path belongs to the
// source, which may have to go on with it; after it nothing may be left that can be refused. So the socket is
// bound beside that place beforehand, in a directory of its own that is its root directory for the moment:
// the kernel keeps the address as it was given, so the socket has the right name, owner and mode from the
// start, and what is left is a rename(2) within one directory of one file system.
#pragma once

#include "base/result.h"
#include "runtime/process/after_commit.pb.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

// Pure. Where the socket lies aside and where it belongs; refuses a path that leads out of its directory.
[[nodiscard]] Result<model::StagedName> stage_of(const model::UnixSocket& model);

// Binds the socket aside. Changes root and working directory of the calling thread (unix_thread.h). What an
// earlier attempt has left there is removed; what this one leaves if it fails is remove_stage()'s to remove.
[[nodiscard]] Result<void> bind_aside(int root, int socket, const model::UnixSocket& model,
                                      const model::StagedName& place);
// Connects a datagram socket to the one that lies aside. Changes the thread's working directory.
[[nodiscard]] Result<void> connect_aside(int root, int socket, const model::StagedName& peer);

// After the decision: takes the place of whatever socket is there.
[[nodiscard]] Result<void> put_in_place(int root, const model::StagedName& place);
// The same, where another process may have done it before it died.
[[nodiscard]] Result<void> put_in_place_once(int root, const model::StagedName& place);
// Removes what lies aside: the directory, after put_in_place(), or the socket too, if the replica never runs.
[[nodiscard]] Result<void> remove_stage(int root, const model::StagedName& place);

}  // namespace godwit::runtime
