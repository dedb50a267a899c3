#include "engine/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <sstream>

namespace godwit::engine {
namespace {
constexpr const char* kUndecided = "undecided";
constexpr const char* kCommitted = "committed";
}  // namespace

Result<Journal> Journal::create(const std::string& path, const std::string& session,
                                const std::string& target) {
  Journal journal;
  journal.path_ = path;
  journal.session_ = session;
  journal.target_ = target;
  GODWIT_ASSIGN(const std::string undecided, journal.line(kUndecided));
  GODWIT_TRY(replace_file_durably(path, undecided));
  GODWIT_ASSIGN(journal.file_, open_file(path, O_RDWR));
  return journal;
}

Result<std::string> Journal::line(const char* state) const {
  std::string line = std::string(state) + ' ' + session_ + ' ' + target_;
  if (line.size() >= kJournalBytes) return refuse("write the journal", path_, "its names are too long");
  line.resize(kJournalBytes - 1, ' ');
  return line + '\n';
}

Result<void> Journal::write(const char* state) {
  GODWIT_ASSIGN(const std::string line, this->line(state));
  const ssize_t written = ::pwrite(file_.get(), line.data(), line.size(), 0);
  if (written < 0) return fail("write the journal", path_);
  if (static_cast<size_t>(written) != line.size()) return fail("write the journal", path_, ENOSPC);
  if (::fdatasync(file_.get()) != 0) return fail("make durable", path_);
  return {};
}

Result<void> Journal::commit() {
  return write(kCommitted);
}

Result<void> Journal::overwrite_undecided() {
  return write(kUndecided);
}

Result<void> Journal::remove() {
  file_.reset();
  if (::unlink(path_.c_str()) != 0) return fail("remove", path_);
  return {};
}

Result<JournalEntry> Journal::read(const std::string& path) {
  GODWIT_ASSIGN(const std::string text, read_file(path, kJournalBytes));
  std::istringstream words(text);
  std::string state;
  JournalEntry entry;
  words >> state >> entry.session >> entry.target;
  if (state != kUndecided && state != kCommitted)
    return refuse("read the journal", path, "it says neither undecided nor committed");
  entry.committed = state == kCommitted;
  return entry;
}

}  // namespace godwit::engine
