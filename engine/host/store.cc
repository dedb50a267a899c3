#include "engine/host/store.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/identifier.h"
#include "engine/paths.h"

namespace godwit::engine {

using model::ContainerRecord;

namespace {

constexpr size_t kRecordBytesMax = size_t{1} << 20;
constexpr std::array kStageNames = {"invalid",  "starting", "running", "migrating", "arriving",
                                    "stopping", "stopped",  "failed",  "removing"};

std::string arriving_path(const ContainerPaths& paths) {
  return paths.directory + "/arriving.json";
}
std::string status_path(const ContainerPaths& paths) {
  return paths.directory + "/status.json";
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

Result<void> make_directory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return fail("make the directory", path, error.value());
  return {};
}

Result<void> write_record(const std::string& path, const ContainerRecord& record) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  if (const auto status = google::protobuf::util::MessageToJsonString(record, &text, options); !status.ok())
    return refuse("write", path, first_line(status.ToString()));
  return replace_file_durably(path, text);
}

Result<ContainerRecord> read_record(const std::string& path) {
  GODWIT_ASSIGN(const std::string text, read_file(path, kRecordBytesMax));
  ContainerRecord record;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  if (const auto status = google::protobuf::util::JsonStringToMessage(text, &record, options); !status.ok())
    return refuse("read", path, first_line(status.ToString()));
  return record;
}

// Of a version before containers had one.
Result<void> give_identity(const std::string& path, ContainerRecord& record) {
  GODWIT_ASSIGN(const std::string uid, random_name());
  record.set_uid(uid);
  record.set_incarnation(1);
  return write_record(path, record);
}

// A status that cannot be read is not fatal: recovery looks at the container itself.
void read_status(const std::string& path, StoredContainer& container) {
  const auto text = read_file(path, kRecordBytesMax);
  const auto status = nlohmann::json::parse(text.value_or(""), nullptr, /*allow_exceptions=*/false);
  if (!status.is_object()) return;
  container.stage = stage_from_name(status.value("stage", ""));
  container.error = status.value("error", "");
  container.session = status.value("session", "");
  if (!status.contains("exit") || !status["exit"].is_object()) return;
  const nlohmann::json& exit = status["exit"];
  container.exit = ExitStatus{.known = exit.value("known", false),
                              .status = exit.value("status", 0),
                              .signal = exit.value("signal", 0),
                              .at_unix_s = exit.value("at_unix_s", int64_t{0})};
}

bool is_under_way(Stage stage) {
  return stage == Stage::kStarting || stage == Stage::kMigrating || stage == Stage::kArriving ||
         stage == Stage::kStopping || stage == Stage::kRemoving;
}

const char* stage_as_reason(Stage stage) {
  switch (stage) {
    case Stage::kStarting:
      return "it is being started";
    case Stage::kRunning:
      return "it is running";
    case Stage::kMigrating:
      return "it is being migrated; end the migration first, or wait for it";
    case Stage::kArriving:
      return "it is arriving from another host and does not run here yet";
    case Stage::kStopping:
      return "it is being stopped";
    case Stage::kStopped:
      return "it has stopped";
    case Stage::kFailed:
      return "it has failed";
    case Stage::kRemoving:
      return "it is being removed";
    case Stage::kInvalid:
      break;
  }
  return "its state is unknown";
}

}  // namespace

const char* stage_name(Stage stage) {
  return kStageNames[static_cast<size_t>(stage)];
}

Stage stage_from_name(const std::string& name) {
  const auto* const found = std::ranges::find(kStageNames, name);
  return found == kStageNames.end() ? Stage::kInvalid : static_cast<Stage>(found - kStageNames.begin());
}

Result<void> Store::load() {
  GODWIT_TRY(make_directory(root_ + "/containers"));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root_ + "/containers", error)) {
    const std::string id = entry.path().filename();
    if (!check_identifier("container id", id)) continue;
    if (auto loaded = load_one(id); !loaded) spdlog::error("{}: {}", id, loaded.error().to_string());
  }
  if (error) return fail("read the directory", root_ + "/containers", error.value());
  return {};
}

Result<void> Store::load_one(const std::string& id) {
  const ContainerPaths paths = container_paths(root_, id);
  StoredContainer container;
  if (auto record = read_record(paths.record)) {
    container.record = *std::move(record);
    read_status(status_path(paths), container);
  } else if (record.error().code == ENOENT) {
    GODWIT_ASSIGN(container.record, read_record(arriving_path(paths)));
    read_status(status_path(paths), container);
    container.stage = Stage::kArriving;
  } else {
    return std::unexpected(record.error());
  }
  if (container.record.id() != id) return refuse("read the record of", id, "it is another container's");
  if (container.record.uid().empty()) GODWIT_TRY(give_identity(paths.record, container.record));
  const std::lock_guard lock(mutex_);
  containers_[id] = std::move(container);
  return {};
}

Result<void> Store::write_status(const StoredContainer& container) const {
  nlohmann::json status = {{"stage", stage_name(container.stage)}};
  if (!container.error.empty()) status["error"] = container.error;
  if (!container.session.empty()) status["session"] = container.session;
  if (container.exit)
    status["exit"] = {{"known", container.exit->known},
                      {"status", container.exit->status},
                      {"signal", container.exit->signal},
                      {"at_unix_s", container.exit->at_unix_s}};
  return replace_file_durably(status_path(container_paths(root_, container.record.id())),
                              status.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

Reply<void> Store::check_place(const ContainerRecord& record) const {
  if (containers_.contains(record.id()))
    return deny(DenialKind::kAlreadyExists, "take the id", record.id(),
                "this host has a container of that name");
  const auto host_part = [](const std::string& cidr) { return cidr.substr(0, cidr.find('/')); };
  for (const auto& [id, other] : containers_) {
    if (host_part(other.record.address()) == host_part(record.address()))
      return deny(DenialKind::kAlreadyExists, "take the address", record.address(),
                  fmt::format("the container {} has it", id));
    if (!record.anti_affinity_group().empty() &&
        other.record.anti_affinity_group() == record.anti_affinity_group())
      return deny(DenialKind::kFailedPrecondition, "run", record.id(),
                  fmt::format("{} of the same anti-affinity group is on this host", id));
  }
  return {};
}

Reply<void> Store::add(const ContainerRecord& record, Stage stage, const std::string& session) {
  const std::lock_guard lock(mutex_);
  GODWIT_TRY(check_place(record));
  StoredContainer container{
      .record = record, .stage = stage, .pid = 0, .exit = {}, .error = {}, .session = session, .commands = 0};
  if (auto written = write_new(container); !written) {
    const std::string directory = container_paths(root_, record.id()).directory;
    std::error_code error;
    std::filesystem::remove_all(directory, error);
    if (error) spdlog::warn("{}", fail("remove", directory, error.value()).error().to_string());
    return deny(DenialKind::kInternal, std::move(written).error());
  }
  containers_[record.id()] = std::move(container);
  return {};
}

Result<void> Store::write_new(const StoredContainer& container) const {
  const ContainerPaths paths = container_paths(root_, container.record.id());
  GODWIT_TRY(make_directory(paths.directory));
  const bool arriving = container.stage == Stage::kArriving;
  GODWIT_TRY(write_record(arriving ? arriving_path(paths) : paths.record, container.record));
  return write_status(container);
}

Reply<StoredContainer*> Store::locate(const std::string& id, const std::string& operation) {
  const auto found = containers_.find(id);
  if (found == containers_.end())
    return deny(DenialKind::kNotFound, operation, "'" + id + "'", "this host has no such container");
  return &found->second;
}

Reply<StoredContainer> Store::find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = containers_.find(id);
  if (found == containers_.end())
    return deny(DenialKind::kNotFound, "find", "'" + id + "'", "this host has no such container");
  return found->second;
}

std::vector<StoredContainer> Store::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<StoredContainer> result;
  result.reserve(containers_.size());
  for (const auto& [id, container] : containers_) result.push_back(container);
  return result;
}

Reply<StoredContainer> Store::begin(const std::string& id, const std::string& operation,
                                    std::initializer_list<Stage> from, Stage to, const std::string& session) {
  const std::lock_guard lock(mutex_);
  GODWIT_ASSIGN(StoredContainer * container, locate(id, operation));
  if (std::ranges::find(from, container->stage) == from.end())
    return deny(DenialKind::kFailedPrecondition, operation, id, stage_as_reason(container->stage));
  if (to == Stage::kMigrating && container->commands != 0)
    return deny(DenialKind::kFailedPrecondition, operation, id,
                "a command runs inside it (godwit exec); a migration cannot take its terminal side along");
  StoredContainer begun = *container;
  begun.stage = to;
  begun.session = session;
  if (auto written = write_status(begun); !written) {
    // The next agent would take what the session leaves for a container that nobody moves.
    if (!session.empty())
      return deny(DenialKind::kInternal, operation, id,
                  "it cannot be written down that it begins: " + written.error().to_string());
    spdlog::warn("{}: {}", id, written.error().to_string());
  }
  return *container = std::move(begun);
}

Reply<void> Store::begin_command(const std::string& id) {
  const std::lock_guard lock(mutex_);
  GODWIT_ASSIGN(StoredContainer * container, locate(id, "execute in"));
  if (container->stage != Stage::kRunning)
    return deny(DenialKind::kFailedPrecondition, "execute in", id, stage_as_reason(container->stage));
  ++container->commands;
  return {};
}

void Store::end_command(const std::string& id) {
  const std::lock_guard lock(mutex_);
  if (const auto found = containers_.find(id); found != containers_.end() && found->second.commands > 0)
    --found->second.commands;
}

void Store::take_in_hand(const std::string& id, Stage stage, const std::string& session) {
  const std::lock_guard lock(mutex_);
  const auto found = containers_.find(id);
  if (found == containers_.end()) return;
  found->second.stage = stage;
  found->second.session = session;
  if (auto written = write_status(found->second); !written)
    spdlog::warn("{}: {}", id, written.error().to_string());
}

Result<void> Store::settle_running(const ContainerRecord& record, pid_t pid) {
  const std::lock_guard lock(mutex_);
  StoredContainer& container = containers_[record.id()];
  container.record = record;
  container.pid = container.exit ? 0 : pid;
  container.stage = container.exit ? Stage::kStopped : Stage::kRunning;
  container.error.clear();
  container.session.clear();
  changed_.notify_all();
  const ContainerPaths paths = container_paths(root_, record.id());
  GODWIT_TRY(make_directory(paths.directory));
  GODWIT_TRY(write_record(paths.record, record));
  GODWIT_TRY(write_status(container));
  std::error_code error;
  std::filesystem::remove(arriving_path(paths), error);
  if (error) return fail("remove", arriving_path(paths), error.value());
  return {};
}

Result<void> Store::settle(const std::string& id, Stage stage, const std::string& error) {
  const std::lock_guard lock(mutex_);
  const auto found = containers_.find(id);
  if (found == containers_.end()) return {};
  found->second.stage = stage;
  found->second.error = error;
  found->second.session.clear();
  changed_.notify_all();
  return write_status(found->second);
}

void Store::note_exit(const std::string& id, const ExitStatus& exit) {
  const std::lock_guard lock(mutex_);
  const auto found = containers_.find(id);
  if (found == containers_.end()) return;
  StoredContainer& container = found->second;
  container.exit = exit;
  container.pid = 0;
  if (!is_under_way(container.stage)) container.stage = Stage::kStopped;
  changed_.notify_all();
  if (container.stage == Stage::kArriving) return;
  if (auto written = write_status(container); !written)
    spdlog::warn("{}: {}", id, written.error().to_string());
}

std::optional<ExitStatus> Store::await_exit(const std::string& id, int64_t timeout_ms) const {
  std::unique_lock lock(mutex_);
  std::optional<ExitStatus> exit;
  changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] {
    const auto found = containers_.find(id);
    if (found == containers_.end()) return true;
    exit = found->second.exit;
    return exit.has_value();
  });
  return exit;
}

Result<void> Store::erase(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const std::string directory = container_paths(root_, id).directory;
  std::error_code error;
  std::filesystem::remove_all(directory, error);
  if (error) return fail("remove", directory, error.value());
  containers_.erase(id);
  changed_.notify_all();
  return {};
}

}  // namespace godwit::engine
