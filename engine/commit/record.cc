#include "engine/commit/record.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <string_view>

namespace godwit::engine {
namespace {

constexpr std::string_view kForm = "godwit-session-1";
constexpr size_t kAddressesMax = 8;
constexpr std::array kStateNames = {"invalid",   "undecided", "committed", "aborted", "resumed",  "departed",
                                    "preparing", "may-run",   "armed",     "running", "never-ran"};

bool is_one_line(const std::string& text) {
  return text.find('\n') == std::string::npos;
}

std::string checksum(std::string_view head, std::string_view body) {
  const auto sum = XXH3_128bits_withSeed(body.data(), body.size(), XXH3_64bits(head.data(), head.size()));
  return fmt::format("{:016x}{:016x}", sum.high64, sum.low64);
}

// The body: a line for each value, then the payload, which may have lines of its own.
std::string body_of(const SessionRecord& record) {
  std::string body =
      fmt::format("side {}\nsession {}\ncontainer {}\nuid {}\nincarnation {}\npeer {}\nbegun {}\n",
                  to_string(record.side), record.session, record.container, record.uid, record.incarnation,
                  record.peer_name, record.begun_unix_s);
  for (const std::string& address : record.peer_addresses) body += fmt::format("address {}\n", address);
  return body + "payload\n" + record.payload;
}

template <typename Number>
bool read_number(const std::string& text, Number& number) {
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && rest == text.data() + text.size();
}

bool read_value(const std::string& key, const std::string& value, SessionRecord& record) {
  if (key == "side") {
    for (const Side side : {Side::kSource, Side::kTarget})
      if (value == to_string(side)) record.side = side;
    return record.side != Side::kInvalid;
  }
  if (key == "session") return !(record.session = value).empty();
  if (key == "container") return !(record.container = value).empty();
  if (key == "uid") return !(record.uid = value).empty();
  if (key == "incarnation") return read_number(value, record.incarnation);
  if (key == "peer") return (record.peer_name = value, true);
  if (key == "begun") return read_number(value, record.begun_unix_s);
  if (key != "address" || record.peer_addresses.size() == kAddressesMax) return false;
  record.peer_addresses.push_back(value);
  return true;
}

bool read_body(std::string_view body, SessionRecord& record) {
  while (!body.empty()) {
    const size_t end = body.find('\n');
    if (end == std::string_view::npos) return false;
    const std::string line(body.substr(0, end));
    body.remove_prefix(end + 1);
    if (line == "payload") {
      record.payload = body;
      return record.side != Side::kInvalid && !record.session.empty() && !record.container.empty();
    }
    const size_t space = line.find(' ');
    if (space == std::string::npos || !read_value(line.substr(0, space), line.substr(space + 1), record))
      return false;
  }
  return false;
}

}  // namespace

const char* to_string(Side side) {
  return side == Side::kSource ? "source" : side == Side::kTarget ? "target" : "invalid";
}

const char* to_string(SessionState state) {
  return kStateNames.at(static_cast<size_t>(state));
}

SessionState session_state(const std::string& name) {
  const auto found = std::ranges::find(kStateNames, name);
  return found == kStateNames.end() ? SessionState::kInvalid
                                    : static_cast<SessionState>(found - kStateNames.begin());
}

bool is_final(SessionState state) {
  return state == SessionState::kAborted || state == SessionState::kResumed ||
         state == SessionState::kDeparted || state == SessionState::kRunning ||
         state == SessionState::kNeverRan;
}

bool belongs_to(SessionState state, Side side) {
  if (state == SessionState::kInvalid) return false;
  return side == (state < SessionState::kPreparing ? Side::kSource : Side::kTarget);
}

uint64_t incarnation_in(const SessionRecord& record) {
  switch (record.state) {
    case SessionState::kCommitted:
    case SessionState::kDeparted:
    case SessionState::kRunning:
      return record.incarnation + 1;
    case SessionState::kResumed:
      return record.incarnation + 2;
    default:
      return record.incarnation;
  }
}

Result<std::string> encode(const SessionRecord& record) {
  constexpr const char* kOperation = "write the record of";
  bool lines = is_one_line(record.session) && is_one_line(record.container) && is_one_line(record.uid) &&
               is_one_line(record.peer_name);
  for (const std::string& address : record.peer_addresses) lines = lines && is_one_line(address);
  if (!lines || record.peer_addresses.size() > kAddressesMax || !belongs_to(record.state, record.side))
    return refuse(kOperation, "session " + record.session, "its names make no sense");
  const std::string body = body_of(record);
  const std::string head = fmt::format("{} {} {} {} ", kForm, to_string(record.state),
                                       record.acknowledged ? "acknowledged" : "open", record.changed_unix_s);
  std::string bytes = head + checksum(head, body);
  if (bytes.size() >= kRecordHeadBytes || kRecordHeadBytes + body.size() > kRecordBytesMax)
    return fail(kOperation, "session " + record.session, EMSGSIZE);
  bytes.resize(kRecordHeadBytes - 1, ' ');
  return bytes + '\n' + body;
}

// Until then everything that it might speak of is refused.
constexpr const char* kWhatToDo = "; remove it once `ps` of both hosts says where the container is";

Result<SessionRecord> decode(const std::string& bytes, const std::string& name) {
  constexpr const char* kOperation = "read the session's record";
  if (bytes.size() <= kRecordHeadBytes)
    return refuse(kOperation, name,
                  std::string("it is not whole: the disk has lost a part of it") + kWhatToDo);
  std::istringstream words(bytes.substr(0, kRecordHeadBytes));
  std::string form, state, acknowledged, changed, sum;
  words >> form >> state >> acknowledged >> changed >> sum;
  if (form != kForm) return refuse(kOperation, name, "it is not of a form that this version knows");
  SessionRecord record;
  record.state = session_state(state);
  record.acknowledged = acknowledged == "acknowledged";
  const std::string body = bytes.substr(kRecordHeadBytes);
  const std::string head = fmt::format("{} {} {} {} ", form, state, acknowledged, changed);
  if (sum != checksum(head, body) || !read_number(changed, record.changed_unix_s) ||
      !read_body(body, record) || !belongs_to(record.state, record.side))
    return refuse(kOperation, name,
                  std::string("its checksum is wrong: the disk has damaged it") + kWhatToDo);
  return record;
}

}  // namespace godwit::engine
