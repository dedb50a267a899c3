#include <fmt/format.h>

#include <array>
#include <ctime>
#include <vector>

#include "base/printable.h"
#include "base/units.h"
#include "tools/godwit/render.h"
#include "tools/godwit/terminal.h"

namespace godwit::tools {

using api::v1::Migration;

namespace {

using Migrations = google::protobuf::RepeatedPtrField<Migration>;

// Enough to tell them apart; the whole name is in the JSON.
constexpr size_t kShortName = 12;

// The hosts of a migration may lie in different zones.
std::string time_of(int64_t unix_s) {
  const time_t seconds = unix_s;
  tm parts{};
  std::array<char, 32> text{};
  if (::gmtime_r(&seconds, &parts) == nullptr || ::strftime(text.data(), text.size(), "%FT%TZ", &parts) == 0)
    return std::to_string(unix_s);
  return text.data();
}

std::string rows_of(const Migrations& migrations) {
  std::vector<std::vector<std::string>> rows = {
      {"SESSION", "CONTAINER", "PEER", "SINCE", "WORKER", "ACKNOWLEDGED", "STATE"}};
  std::string unreadable;
  for (const Migration& migration : migrations) {
    if (!migration.unreadable().empty()) {
      unreadable += fmt::format("unreadable: {}\n", printable(migration.unreadable()));
      continue;
    }
    rows.push_back({migration.session().substr(0, kShortName), migration.container(),
                    fmt::format("{} {}", migration.side() == "source" ? "to" : "from", migration.peer()),
                    time_of(migration.changed_unix_s()), migration.worker_lives() ? "at work" : "-",
                    migration.acknowledged() ? "yes" : "no",
                    fmt::format("{}: {}", migration.state(), migration.meaning())});
  }
  return format_table(rows) + unreadable;
}

std::string facts_of(const api::v1::InspectResponse& inspected) {
  const api::v1::Container& container = inspected.container();
  std::vector<std::vector<std::string>> rows = {{container.id(), state_name(container.state())}};
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) rows.push_back({fmt::format("  {}", name), value});
  };
  add("error", container.error());
  if (container.has_exit())
    add("ended",
        fmt::format("{} at {}",
                    container.exit().known() ? fmt::format("with status {}", container.exit().status())
                                             : "nobody saw how",
                    time_of(container.exit().at_unix_s())));
  add("processes", inspected.processes());
  if (container.pid() != 0) add("pid", std::to_string(container.pid()));
  add("address", container.address());
  add("mac", container.mac());
  add("gateway", container.gateway());
  add("hostname", container.hostname());
  add("environment", container.environment());
  add("group", container.anti_affinity_group());
  if (container.memory_limit_bytes() != 0) add("memory", format_bytes(container.memory_limit_bytes()));
  if (container.cpu_millis() != 0) add("cpus", format_cpus(container.cpu_millis()));
  add("bundle", container.bundle());
  add("created", time_of(container.created_unix_s()));
  add("uid", inspected.uid());
  add("incarnation", std::to_string(inspected.incarnation()));
  return format_table(rows);
}

// What it waits for, and the way out.
std::string wait_of(const api::v1::InspectResponse& inspected) {
  const api::v1::Container& container = inspected.container();
  if (container.waits_for().empty()) return {};
  std::string text;
  for (const Migration& migration : inspected.migrations())
    if (migration.waiting() && migration.peer() == container.waits_for() && text.empty())
      text =
          printable(fmt::format(
              "it {} since {}: {}",
              container.state() == api::v1::CONTAINER_STATE_ARRIVING ? "is held here" : "stays stopped here",
              time_of(migration.changed_unix_s()), migration.meaning())) +
          "\n";
  return text +
         printable(fmt::format("If {} never comes back: godwit resolve {} --runs-here | --gone "
                               "(godwit resolve --help)",
                               container.waits_for(), container.id())) +
         "\n";
}

}  // namespace

std::string table_of(const api::v1::ListMigrationsResponse& list) {
  return rows_of(list.migrations());
}

std::string text_of(const api::v1::InspectResponse& inspected) {
  std::string text = inspected.has_container()
                         ? facts_of(inspected)
                         : printable(fmt::format("not on {} (any more)", inspected.host())) + "\n";
  if (const std::string wait = wait_of(inspected); !wait.empty()) text += "\n" + wait;
  if (!inspected.migrations().empty()) text += "\n" + rows_of(inspected.migrations());
  return text;
}

std::string text_of(const api::v1::ResolveRequest& request, const api::v1::ResolveResponse& resolution) {
  const auto line = [](const std::string& text) { return printable(text) + "\n"; };
  if (resolution.done()) return line(fmt::format("{}: {}", request.id(), resolution.plan()));
  const std::string option = request.resolution() == api::v1::RESOLUTION_RUNS_HERE ? "--runs-here" : "--gone";
  return line(fmt::format("godwit: {} is not resolved: it waits for {}, which has to be named", request.id(),
                          resolution.peer())) +
         line("  known: " + resolution.known()) + line("  would be done: " + resolution.plan()) +
         line("  risk: " + resolution.risk()) +
         line(fmt::format("Only if {} never comes back: godwit resolve {} {} --peer {}", resolution.peer(),
                          request.id(), option, resolution.peer()));
}

}  // namespace godwit::tools
