#include "tools/godwit/render.h"

namespace godwit::tools {

using nlohmann::ordered_json;

std::string state_name(api::v1::ContainerState state) {
  constexpr const char* kPrefix = "CONTAINER_STATE_";
  std::string name = api::v1::ContainerState_Name(state);
  if (name.starts_with(kPrefix)) name.erase(0, std::char_traits<char>::length(kPrefix));
  for (char& letter : name)
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  return name.empty() ? "unknown" : name;
}

ordered_json json_of(const api::v1::Container& container) {
  ordered_json json = {{"id", container.id()},
                       {"state", state_name(container.state())},
                       {"address", container.address()},
                       {"mac", container.mac()},
                       {"gateway", container.gateway()},
                       {"hostname", container.hostname()},
                       {"environment", container.environment()},
                       {"anti_affinity_group", container.anti_affinity_group()},
                       {"memory_limit_bytes", container.memory_limit_bytes()},
                       {"cpu_millis", container.cpu_millis()},
                       {"pid", container.pid()},
                       {"bundle", container.bundle()},
                       {"created_unix_s", container.created_unix_s()}};
  if (container.has_exit())
    json["exit"] = {{"known", container.exit().known()},
                    {"status", container.exit().status()},
                    {"signal", container.exit().signal()},
                    {"at_unix_s", container.exit().at_unix_s()}};
  if (!container.error().empty()) json["error"] = container.error();
  if (!container.waits_for().empty()) json["waits_for"] = container.waits_for();
  return json;
}

ordered_json json_of(const api::v1::ListResponse& list) {
  ordered_json json = {{"host", list.host()}, {"containers", ordered_json::array()}};
  for (const api::v1::Container& container : list.containers())
    json["containers"].push_back(json_of(container));
  return json;
}

namespace {

ordered_json json_of_migrations(const google::protobuf::RepeatedPtrField<api::v1::Migration>& migrations) {
  ordered_json json = ordered_json::array();
  for (const api::v1::Migration& migration : migrations) {
    if (!migration.unreadable().empty()) {
      json.push_back({{"unreadable", migration.unreadable()}});
      continue;
    }
    json.push_back({{"session", migration.session()},
                    {"container", migration.container()},
                    {"uid", migration.uid()},
                    {"incarnation", migration.incarnation()},
                    {"side", migration.side()},
                    {"peer", migration.peer()},
                    {"peer_addresses", migration.peer_addresses()},
                    {"state", migration.state()},
                    {"meaning", migration.meaning()},
                    {"begun_unix_s", migration.begun_unix_s()},
                    {"changed_unix_s", migration.changed_unix_s()},
                    {"worker_lives", migration.worker_lives()},
                    {"acknowledged", migration.acknowledged()},
                    {"waiting", migration.waiting()}});
  }
  return json;
}

}  // namespace

ordered_json json_of(const api::v1::ListMigrationsResponse& list) {
  return {{"host", list.host()}, {"migrations", json_of_migrations(list.migrations())}};
}

ordered_json json_of(const api::v1::InspectResponse& inspected) {
  ordered_json json = {{"host", inspected.host()}, {"container", nullptr}};
  if (inspected.has_container()) {
    json["container"] = json_of(inspected.container());
    json["container"]["uid"] = inspected.uid();
    json["container"]["incarnation"] = inspected.incarnation();
    json["container"]["processes"] = inspected.processes();
  }
  json["migrations"] = json_of_migrations(inspected.migrations());
  return json;
}

ordered_json json_of(const api::v1::DoctorResponse& doctor) {
  ordered_json json = {{"host", doctor.host()}, {"findings", ordered_json::array()}};
  for (const api::v1::Finding& finding : doctor.findings())
    json["findings"].push_back({{"name", finding.name()},
                                {"present", finding.present()},
                                {"required", finding.required()},
                                {"value", finding.value()},
                                {"needed_for", finding.needed_for()},
                                {"how_to_get", finding.how_to_get()}});
  return json;
}

namespace {
template <typename Refusals>
ordered_json json_of_refusals(const Refusals& refusals) {
  ordered_json json = ordered_json::array();
  for (const engine::model::Refused& refused : refusals)
    json.push_back({{"pid", refused.pid()}, {"object", refused.object()}, {"reason", refused.reason()}});
  return json;
}
}  // namespace

ordered_json json_of(const api::v1::CheckResponse& check) {
  return {{"movable", check.refusals().empty()}, {"refusals", json_of_refusals(check.refusals())}};
}

ordered_json json_of(const engine::model::MigrationResult& result) {
  ordered_json timeline = ordered_json::array();
  for (const engine::model::TimelineEntry& entry : result.timeline())
    timeline.push_back({{"side", entry.side()},
                        {"phase", entry.phase()},
                        {"start_us", entry.start_us()},
                        {"duration_us", entry.duration_us()}});
  return {{"succeeded", result.succeeded()},
          {"id", result.id()},
          {"error", result.error()},
          {"container_at", result.container_at()},
          {"rounds", result.rounds()},
          {"bytes_sent", result.bytes_sent()},
          {"pages_sent", result.pages_sent()},
          {"pages_zero", result.pages_zero()},
          {"pages_unchanged", result.pages_unchanged()},
          {"total_us", result.total_us()},
          {"downtime_us", result.downtime_us()},
          {"throughput_bytes_per_second", result.throughput_bytes_per_second()},
          {"dirty_bytes_per_second", result.dirty_bytes_per_second()},
          {"transport", result.transport()},
          {"transport_reason", result.transport_reason()},
          {"tracker", result.tracker()},
          {"verified", result.verified()},
          {"parked_frames", result.parked_frames()},
          {"memory_bytes", result.memory_bytes()},
          {"refusals", json_of_refusals(result.refusals())},
          {"timeline", std::move(timeline)}};
}

ordered_json json_of(const engine::model::MigrationEvent& event) {
  ordered_json json = {{"at_us", event.at_us()}};
  if (event.has_state())
    json["state"] = {{"state", event.state().state()}, {"detail", event.state().detail()}};
  if (event.has_link()) json["link"] = {{"transport", event.link().transport()}, {"why", event.link().why()}};
  if (event.has_round()) {
    const engine::model::RoundDone& round = event.round();
    json["round"] = {{"round", round.round()},
                     {"pages_due", round.pages_due()},
                     {"pages_sent", round.pages_sent()},
                     {"pages_zero", round.pages_zero()},
                     {"pages_unchanged", round.pages_unchanged()},
                     {"bytes_sent", round.bytes_sent()},
                     {"duration_us", round.duration_us()},
                     {"dirty_bytes_per_second", round.dirty_bytes_per_second()},
                     {"throughput_bytes_per_second", round.throughput_bytes_per_second()},
                     {"throttle_percent", round.throttle_percent()},
                     {"decision", round.decision()}};
  }
  return json;
}

std::string dump(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace godwit::tools
