#include "engine/commit/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <memory>
#include <span>

#include "base/clock.h"
#include "base/directory.h"
#include "base/identifier.h"

namespace godwit::engine {
namespace {

// What the bytes of the file that are locked stand for; they need not exist.
constexpr off_t kChanging = 0;
constexpr off_t kWorking = 1;
constexpr size_t kDirectAlignment = 4096;  // of memory and lengths, on every disk there is
constexpr int64_t kDay = 86'400;
constexpr int64_t kKeptAcknowledgedS = 7 * kDay;
constexpr size_t kKeptAcknowledged =
    256;  // of a host that migrates all the time: they are all read at each arrival
constexpr int64_t kKeptS = 90 * kDay;
// A change takes a flush: a slow disk takes seconds for one.
constexpr int64_t kChangePatienceNs = 10'000'000'000;
constexpr useconds_t kChangePauseUs = 2'000;

struct flock range(short type, off_t byte) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return lock;
}

// Nothing happens if somebody else holds it: EAGAIN.
Result<void> try_lock(int file, short type, off_t byte, const std::string& path) {
  struct flock lock = range(type, byte);
  if (::fcntl(file, F_OFD_SETLK, &lock) == 0) return {};
  return fail("lock", path, errno == EACCES ? EAGAIN : errno);
}

bool is_locked(int file, off_t byte) {
  struct flock lock = range(F_WRLCK, byte);
  return ::fcntl(file, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

// Readers hold it for moments only.
Result<void> lock_for_change(int file, const std::string& path) {
  const int64_t patient_until_ns = monotonic_ns() + kChangePatienceNs;
  for (;;) {
    auto locked = try_lock(file, F_WRLCK, kChanging, path);
    if (locked || locked.error().code != EAGAIN || monotonic_ns() > patient_until_ns) return locked;
    ::usleep(kChangePauseUs);
  }
}

void unlock(int file, off_t byte) {
  struct flock lock = range(F_UNLCK, byte);
  (void)::fcntl(file, F_OFD_SETLK,
                &lock);  // cannot fail on a lock that is ours; closing the file ends it too
}

Result<std::string> read_buffered(const std::string& path) {
  return read_file(path, kRecordBytesMax);
}

// Past the page cache. EINVAL where the file system has no such way.
Result<std::string> read_direct(const std::string& path) {
  GODWIT_ASSIGN(const Fd file, open_file(path, O_RDONLY | O_DIRECT));
  constexpr size_t kRoom = kRecordBytesMax + kDirectAlignment;
  const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(kDirectAlignment, kRoom),
                                                           &std::free);
  if (memory == nullptr) return fail("read", path, ENOMEM);
  size_t used = 0;
  while (used < kRoom) {
    const ssize_t got =
        ::pread(file.get(), static_cast<char*>(memory.get()) + used, kRoom - used, static_cast<off_t>(used));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail("read", path);
    used += static_cast<size_t>(got);
    // The rest of a file is read whole, and what ends between two sectors is its end.
    if (got == 0 || used % kDirectAlignment != 0) break;
  }
  return std::string(static_cast<const char*>(memory.get()), used);
}

// What the disk has.
Result<SessionRecord> read_durable(int file, const std::string& path) {
  // Flushes what a writer left who died before he could; where that fails, the disk is asked.
  const bool flushed = ::fdatasync(file) == 0;
  const int why = errno;
  auto bytes = read_direct(path);
  if (!bytes && bytes.error().code == EINVAL) {
    if (!flushed) return fail("make durable", path, why);
    bytes = read_buffered(path);
  }
  if (!bytes) return std::unexpected(std::move(bytes).error());
  return decode(*bytes, path);
}

Result<void> flush_directory(const std::string& path) {
  GODWIT_ASSIGN(const Fd directory, open_file(path, O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0) return fail("make durable", path);
  return {};
}

Result<void> write_at_start(int file, std::span<const char> bytes, const std::string& path) {
  while (true) {
    const ssize_t written = ::pwrite(file, bytes.data(), bytes.size(), 0);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail("write", path);
    if (static_cast<size_t>(written) != bytes.size()) return fail("write", path, EIO);
    return {};
  }
}

bool is_over(const SessionRecord& record, int64_t now_unix_s) {
  if (!is_final(record.state)) return false;
  const int64_t age_s = now_unix_s - record.changed_unix_s;
  if (record.acknowledged) return age_s > kKeptAcknowledgedS;
  // Of these the other side learns by the incarnation. A source that asks after one that never ran, or a
  // target after one that was aborted, has nothing but this record.
  const bool told_by_incarnation =
      record.state == SessionState::kRunning || record.state == SessionState::kDeparted;
  return told_by_incarnation && age_s > kKeptS;
}

}  // namespace

Result<void> SessionFile::write(const SessionRecord& wanted) {
  GODWIT_ASSIGN(const std::string bytes, encode(wanted));
  GODWIT_TRY(lock_for_change(file_.get(), path_));
  auto written = write_at_start(file_.get(), std::span(bytes).first(kRecordHeadBytes), path_);
  if (written && ::fdatasync(file_.get()) != 0) written = fail("make durable", path_);
  if (!written) {
    auto truth = read_durable(file_.get(), path_);
    const bool known = truth.has_value();
    record_ = known ? *std::move(truth) : wanted;
    if (!known) record_.state = SessionState::kInvalid;
    if (record_ == wanted) written = {};
  } else {
    record_ = wanted;
  }
  unlock(file_.get(), kChanging);
  return written;
}

Result<void> SessionFile::advance(SessionState state) {
  if (record_.state == state) return {};
  SessionRecord wanted = record_;
  wanted.state = state;
  wanted.changed_unix_s = ::time(nullptr);
  return write(wanted);
}

Result<void> SessionFile::acknowledge() {
  if (record_.acknowledged) return {};
  SessionRecord wanted = record_;
  wanted.acknowledged = true;
  return write(wanted);
}

Result<void> SessionStore::prepare() const {
  for (const std::string& directory : {directory_, incarnations_})
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
      return fail("make the directory", directory);
  return {};
}

std::string SessionStore::path_of(const std::string& session, Side side) const {
  return directory_ + "/" + session + "." + to_string(side);
}

Result<SessionFile> SessionStore::create(const SessionRecord& record) const {
  GODWIT_TRY(check_identifier("session", record.session));
  const std::string path = path_of(record.session, record.side);
  const std::string fresh = path + ".new";
  GODWIT_ASSIGN(const std::string bytes, encode(record));
  GODWIT_ASSIGN(Fd file, open_file(fresh, O_RDWR | O_CREAT | O_TRUNC, 0600));
  auto made = try_lock(file.get(), F_WRLCK, kWorking, fresh);
  if (made) made = write_at_start(file.get(), bytes, fresh);
  if (made && ::fsync(file.get()) != 0) made = fail("make durable", fresh);
  // Not over one that exists: two sessions of one name would be one peer's doing.
  if (made && ::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) != 0)
    made = fail("make", path);
  if (made) made = flush_directory(directory_);
  if (!made) {
    ::unlink(fresh.c_str());
    return std::unexpected(std::move(made).error());
  }
  return SessionFile(record, path, std::move(file));
}

Result<SessionFile> SessionStore::claim(const std::string& session, Side side) const {
  const std::string path = path_of(session, side);
  GODWIT_ASSIGN(Fd file, open_file(path, O_RDWR));
  if (auto locked = try_lock(file.get(), F_WRLCK, kWorking, path); !locked)
    return fail("take over", "session " + session,
                locked.error().code == EAGAIN ? EBUSY : locked.error().code, "its worker still works");
  GODWIT_ASSIGN(SessionRecord record, read_durable(file.get(), path));
  return SessionFile(std::move(record), path, std::move(file));
}

Result<SessionRecord> SessionStore::read(const std::string& session, Side side) const {
  const std::string path = path_of(session, side);
  GODWIT_ASSIGN(const Fd file, open_file(path, O_RDWR));
  GODWIT_TRY(try_lock(file.get(), F_RDLCK, kChanging, path));
  return read_durable(file.get(), path);
}

bool SessionStore::worker_lives(const std::string& session, Side side) const {
  const auto file = open_file(path_of(session, side), O_RDWR);
  return file && is_locked(file->get(), kWorking);
}

// Waits for a change that is under way.
Result<SessionRecord> SessionStore::read_patiently(const std::string& session, Side side) const {
  const int64_t patient_until_ns = monotonic_ns() + kChangePatienceNs;
  for (;; ::usleep(kChangePauseUs)) {
    auto record = read(session, side);
    if (record || record.error().code != EAGAIN || monotonic_ns() > patient_until_ns) return record;
  }
}

Result<std::vector<SessionRecord>> SessionStore::list(
    const std::function<void(const Error&)>& unreadable) const {
  const Directory directory(::opendir(directory_.c_str()));
  if (directory == nullptr) return fail("list", directory_);
  std::vector<SessionRecord> records;
  while (const dirent* entry = ::readdir(directory.get())) {
    const std::filesystem::path name = entry->d_name;
    for (const Side side : {Side::kSource, Side::kTarget}) {
      if (name.extension() != std::string(".") + to_string(side)) continue;
      auto record = read_patiently(name.stem(), side);
      if (record)
        records.push_back(*std::move(record));
      else if (record.error().code != ENOENT)
        unreadable(record.error());
    }
  }
  std::ranges::sort(records, {}, &SessionRecord::begun_unix_s);
  return records;
}

Result<void> SessionStore::remove(const std::string& session, Side side) const {
  const std::string path = path_of(session, side);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail("remove", path);
  return flush_directory(directory_);
}

Result<uint64_t> SessionStore::highest_incarnation(const std::string& uid) const {
  GODWIT_TRY(check_identifier("uid", uid));
  uint64_t highest = 0;
  const std::string path = incarnations_ + "/" + uid;
  if (auto text = read_file(path, 64))
    highest = std::strtoull(text->c_str(), nullptr, 10);
  else if (text.error().code != ENOENT)
    return std::unexpected(std::move(text).error());
  std::optional<Error> unreadable;
  GODWIT_ASSIGN(const auto records, list([&](const Error& error) { unreadable = error; }));
  // What may be in the one that cannot be read now may be what is asked for.
  if (unreadable) return std::unexpected(*std::move(unreadable));
  for (const SessionRecord& record : records) {
    const bool ran_here = record.side == Side::kSource || record.state == SessionState::kRunning;
    if (record.uid == uid && ran_here) highest = std::max(highest, incarnation_in(record));
  }
  return highest;
}

Result<void> SessionStore::remember_incarnation(const std::string& uid, uint64_t incarnation) const {
  GODWIT_TRY(check_identifier("uid", uid));
  const std::string path = incarnations_ + "/" + uid;
  const auto known = read_file(path, 64);
  if (!known && known.error().code != ENOENT) return std::unexpected(known.error());
  if (known && std::strtoull(known->c_str(), nullptr, 10) >= incarnation) return {};
  return replace_file_durably(path, std::to_string(incarnation) + "\n");
}

Result<void> SessionStore::prune(int64_t now_unix_s) const {
  GODWIT_ASSIGN(auto records, list([](const Error&) {}));
  std::ranges::sort(records, std::greater{}, &SessionRecord::changed_unix_s);
  size_t acknowledged = 0;
  for (const SessionRecord& record : records) {
    const bool one_too_many =
        is_final(record.state) && record.acknowledged && ++acknowledged > kKeptAcknowledged;
    if (!one_too_many && !is_over(record, now_unix_s)) continue;
    const bool ran = record.side == Side::kSource || record.state == SessionState::kRunning;
    if (ran && !record.uid.empty()) GODWIT_TRY(remember_incarnation(record.uid, incarnation_in(record)));
    GODWIT_TRY(remove(record.session, record.side));
  }
  return {};
}

}  // namespace godwit::engine
