// The journal of one migration at the source: where the commit decision is written, once.
//
// The file is made before the container is frozen, so that writing the decision is one write(2) over
// allocated blocks and one fdatasync(2). An agent that finds a journal after a crash reads who owns the
// container: without a decision the source does, with one the target does.
//
// Layout: one line of text, padded with spaces to kJournalBytes: "undecided SESSION TARGET\n" or
// "committed SESSION TARGET\n". A torn write cannot turn the one into the other: the decision changes the
// first nine bytes within one sector.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace godwit::engine {

inline constexpr size_t kJournalBytes = 512;

struct JournalEntry {
  bool committed = false;
  std::string session;
  std::string target;  // ADDR:PORT
};

class Journal {
 public:
  // Makes `path` durable with the entry "undecided", as a whole or not at all: half a journal, left by a disk
  // that is full, would not say whose the container is.
  static Result<Journal> create(const std::string& path, const std::string& session,
                                const std::string& target);
  // Writes the decision. When this returns an error it is not known whether the decision is on disk: the
  // caller must treat the migration as undecided only after overwrite_undecided() succeeded.
  Result<void> commit();
  Result<void> overwrite_undecided();
  // The migration is over: removes the file.
  Result<void> remove();

  static Result<JournalEntry> read(const std::string& path);

 private:
  [[nodiscard]] Result<std::string> line(const char* state) const;
  Result<void> write(const char* state);
  std::string path_;
  std::string session_;
  std::string target_;
  Fd file_;
};

}  // namespace godwit::engine
