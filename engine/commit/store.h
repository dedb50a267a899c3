// The sessions' records on disk: ROOT/sessions/SESSION.source and SESSION.target.
//
// Visible is durable: whoever reads a record reads what a power cut cannot take back.
//   * A record is made aside, flushed, renamed into place, and its directory flushed: it exists whole or not
//   at all.
//   * A change is one write(2) over one allocated sector and one fdatasync(2), under a lock (fcntl(2), open
//   file
//     description locks) that readers respect: EAGAIN. So it takes no room, and a full disk cannot refuse it.
//   * The reader of a record whose writer died in between flushes it first.
//   * If a write or a flush fails, the page cache may show what the disk never got. So records are read past
//   it
//     (O_DIRECT, where the file system has it), by the writer too: advance() says what became of the record.
//
// A worker holds a second lock on its record for as long as it lives, from before others can see the record.
// So an agent learns from the kernel whether somebody is at work on a session, also after its own restart.
//
// ROOT/incarnations/UID holds the highest incarnation of a container that this host has seen run, here or
// elsewhere (record.h). It outlives the records and the container.
//
// Threads: SessionStore: any, at once. SessionFile: one at a time.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "engine/commit/record.h"

namespace godwit::engine {

// A record opened to be changed.
class SessionFile {
 public:
  [[nodiscard]] const SessionRecord& record() const { return record_; }
  [[nodiscard]] SessionState state() const { return record_.state; }
  // Durable when it returns without an error. After an error record() is what the disk has, if that can be
  // told; kInvalid as its state if not: then nothing is known, and read() has to be tried again.
  Result<void> advance(SessionState state);
  // The other side is over it, too. Nothing depends on it but when the file may go.
  Result<void> acknowledge();

 private:
  friend class SessionStore;
  SessionFile(SessionRecord record, std::string path, Fd file)
      : record_(std::move(record)), path_(std::move(path)), file_(std::move(file)) {}
  Result<void> write(const SessionRecord& wanted);

  SessionRecord record_;
  std::string path_;
  Fd file_;  // holds the worker's lock, if it was made by create() or claim()
};

class SessionStore {
 public:
  explicit SessionStore(const std::string& root)
      : directory_(root + "/sessions"), incarnations_(root + "/incarnations") {}
  // Makes the directories. Once, by the agent.
  Result<void> prepare() const;

  // A new session: its record, durable, held by this process as the session's worker. EEXIST: there is one.
  Result<SessionFile> create(const SessionRecord& record) const;
  // For an agent: opens an existing one. EBUSY while its worker lives; held by this process afterwards.
  Result<SessionFile> claim(const std::string& session, Side side) const;
  // ENOENT: there is none. EAGAIN: it is being changed at this moment.
  [[nodiscard]] Result<SessionRecord> read(const std::string& session, Side side) const;
  // The same, but waits for the change, up to some seconds.
  [[nodiscard]] Result<SessionRecord> read_patiently(const std::string& session, Side side) const;
  [[nodiscard]] bool worker_lives(const std::string& session, Side side) const;
  // SIGKILL to the worker that holds the record, whoever started it; returns once it has ended. No error if
  // there is none. worker_end.cc.
  Result<void> end_worker(const std::string& session, Side side) const;
  // All of them; what cannot be read is told to `unreadable` and left out.
  [[nodiscard]] Result<std::vector<SessionRecord>> list(
      const std::function<void(const Error&)>& unreadable) const;
  Result<void> remove(const std::string& session, Side side) const;

  // The highest incarnation of `uid` that was seen to run; 0: none. From the file and from the records.
  [[nodiscard]] Result<uint64_t> highest_incarnation(const std::string& uid) const;
  // Durable; a lower one than is known changes nothing.
  Result<void> remember_incarnation(const std::string& uid, uint64_t incarnation) const;
  // Forgets the records of sessions that ended long ago, at both sides as far as that is known; of those that
  // both sides know the end of, the newest 256 stay at most. What they say of incarnations is remembered.
  Result<void> prune(int64_t now_unix_s) const;

 private:
  [[nodiscard]] std::string path_of(const std::string& session, Side side) const;

  std::string directory_;
  std::string incarnations_;
};

}  // namespace godwit::engine
