// What the agent said, as tables for people and as JSON for programs. Pure functions.
//
// JSON names are those of the protobuf fields (snake_case); 64-bit numbers are numbers, not strings.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tools/api/godwit.pb.h"

namespace godwit::tools {

std::string state_name(api::v1::ContainerState state);  // "running"

nlohmann::ordered_json json_of(const api::v1::Container& container);
nlohmann::ordered_json json_of(const api::v1::ListResponse& list);
nlohmann::ordered_json json_of(const api::v1::ListMigrationsResponse& list);
nlohmann::ordered_json json_of(const api::v1::InspectResponse& inspected);
nlohmann::ordered_json json_of(const api::v1::DoctorResponse& doctor);
nlohmann::ordered_json json_of(const api::v1::CheckResponse& check);
nlohmann::ordered_json json_of(const engine::model::MigrationResult& result);
// {"at_us": N, "state": {...}} or {"at_us": N, "round": {...}}.
nlohmann::ordered_json json_of(const engine::model::MigrationEvent& event);
// One line; text that is not UTF-8 is replaced, not refused.
std::string dump(const nlohmann::ordered_json& json);

std::string table_of(const api::v1::ListResponse& list);
std::string table_of(const api::v1::DoctorResponse& doctor);
// What the agent knows of migrations; render_sessions.cc.
std::string table_of(const api::v1::ListMigrationsResponse& list);
std::string text_of(const api::v1::InspectResponse& inspected);
// What was done, or, if it was not confirmed, all that one has to know before one does.
std::string text_of(const api::v1::ResolveRequest& request, const api::v1::ResolveResponse& resolution);
// "12:redis fd 7: an inotify instance".
std::string line_of(const engine::model::Refused& refused);

// "round 2: 812 of 3,120 pages, 3.2 MiB in 4.21 ms, 712 MB/s; dirty 12 MB/s; cutover: ...".
std::string progress_of(const engine::model::MigrationEvent& event);
std::string summary_of(const engine::model::MigrationResult& result);
// The phases of both ends on the source's clock, sub-phases indented, with a bar in what is left of
// `columns`.
std::string timeline_of(const engine::model::MigrationResult& result, unsigned columns);

}  // namespace godwit::tools
