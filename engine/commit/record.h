// What one side of a migration knows for certain about it: the session's record.
//
// Each migration is a session with a random name. The source and the target keep one record each, in one file
// each (store.h), from before anything is made until both know how it ended. Everything else that a process
// of ours remembers of a session may be lost at any time; what is in the records, together with what the
// kernel shows of the container, decides who runs it (machine.h).
//
// Identity. A container gets a random uid when it is first run, and incarnation 1. A container is moved as
// incarnation n and runs at the target as n + 1; a source that learns that n + 1 never ran goes on as n + 2.
// So of two copies that meet the one with the higher incarnation is the container, and of a host that has
// seen m anything that would run as m or less is refused. An id may be used again, a uid never is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace godwit::engine {

enum class Side : uint8_t { kInvalid = 0, kSource = 1, kTarget = 2 };

enum class SessionState : uint8_t {
  kInvalid = 0,
  // The source's.
  kUndecided = 1,  // the container is the source's; while its worker lives, that may change
  kCommitted = 2,  // THE decision: the container is the target's
  kAborted = 3,    // it is the source's for good
  kResumed = 4,    // committed, but the target has said that it never ran there: the source's again, as n + 2
  kDeparted = 5,   // the target has said that it runs there: what is left here may be removed
  // The target's.
  kPreparing = 6,  // being built; not to be run
  kMayRun = 7,     // complete: to be run once the source is known to have committed
  kArmed = 8,      // from here on nobody can say that it never ran because nothing of it is left
  kRunning = 9,    // it was let go here
  kNeverRan = 10,  // it was not, and nothing is left that could be
};

[[nodiscard]] const char* to_string(Side side);                     // "source"
[[nodiscard]] const char* to_string(SessionState state);            // "may-run"
[[nodiscard]] SessionState session_state(const std::string& name);  // kInvalid: no such name
// Nothing follows: the session is over at this side.
[[nodiscard]] bool is_final(SessionState state);
[[nodiscard]] bool belongs_to(SessionState state, Side side);

struct SessionRecord {
  Side side = Side::kInvalid;
  SessionState state = SessionState::kInvalid;
  bool acknowledged = false;   // the other side has said that it is over there, too
  int64_t changed_unix_s = 0;  // when `state` was written
  // What does not change.
  std::string session;                      // an identifier (identifier.h)
  std::string container;                    // its id
  std::string uid;                          // its identity
  uint64_t incarnation = 0;                 // n: that of the source when the session began
  std::string peer_name;                    // the other host
  std::vector<std::string> peer_addresses;  // where its agent can be asked, ADDR:PORT; the best first
  int64_t begun_unix_s = 0;
  std::string payload;  // the keeper's: what it needs to take the container over (a ContainerRecord)

  bool operator==(const SessionRecord&) const = default;
};

// As which incarnation the container runs in this state: at this side, or (committed, departed) at the other.
[[nodiscard]] uint64_t incarnation_in(const SessionRecord& record);

// The form of the file. A head of one sector (512 bytes) holds all that changes, so that a change is one
// write that no power cut can tear; the body behind it is written once. Both are lines of text, and the head
// ends with a checksum of everything.
inline constexpr size_t kRecordHeadBytes = 512;
inline constexpr size_t kRecordBytesMax = 64 << 10;

// Head and body. An error if a name has a line end in it, or all is too long.
[[nodiscard]] Result<std::string> encode(const SessionRecord& record);
// `name` is for messages. What is torn, foreign or of a later form is refused.
[[nodiscard]] Result<SessionRecord> decode(const std::string& bytes, const std::string& name);

}  // namespace godwit::engine
