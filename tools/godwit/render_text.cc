#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/printable.h"
#include "base/units.h"
#include "tools/godwit/render.h"
#include "tools/godwit/terminal.h"

namespace godwit::tools {

using engine::model::MigrationResult;
using engine::model::TimelineEntry;

namespace {

std::string or_dash(const std::string& text) {
  return text.empty() ? "-" : text;
}

std::string state_cell(const api::v1::Container& container) {
  std::string state = state_name(container.state());
  if (!container.waits_for().empty()) return fmt::format("{} (waits for {})", state, container.waits_for());
  if (!container.has_exit() || container.state() != api::v1::CONTAINER_STATE_STOPPED) return state;
  if (!container.exit().known()) return state + " (?)";
  return fmt::format("{} ({})", state, container.exit().status());
}

}  // namespace

std::string table_of(const api::v1::ListResponse& list) {
  std::vector<std::vector<std::string>> rows = {
      {"ID", "STATE", "ADDRESS", "HOSTNAME", "ENVIRONMENT", "GROUP", "MEMORY", "CPUS", "PID"}};
  for (const api::v1::Container& container : list.containers())
    rows.push_back({container.id(), state_cell(container), container.address(), container.hostname(),
                    or_dash(container.environment()), or_dash(container.anti_affinity_group()),
                    container.memory_limit_bytes() == 0 ? "-" : format_bytes(container.memory_limit_bytes()),
                    format_cpus(container.cpu_millis()),
                    container.pid() == 0 ? "-" : std::to_string(container.pid())});
  return format_table(rows);
}

std::string table_of(const api::v1::DoctorResponse& doctor) {
  std::vector<std::vector<std::string>> rows = {{"HOST " + doctor.host(), "", "VALUE", "NEEDED FOR"}};
  std::string missing;
  for (const api::v1::Finding& finding : doctor.findings()) {
    const char* verdict = finding.present() ? "ok" : finding.required() ? "MISSING" : "absent";
    rows.push_back({finding.name(), verdict, or_dash(finding.value()), or_dash(finding.needed_for())});
    if (!finding.present() && !finding.how_to_get().empty())
      missing += fmt::format("{}: {}\n", finding.name(), printable(finding.how_to_get()));
  }
  return format_table(rows) + (missing.empty() ? "" : "\n" + missing);
}

std::string line_of(const engine::model::Refused& refused) {
  const std::string where = refused.pid() == 0 ? "" : fmt::format("pid {} ", refused.pid());
  return printable(fmt::format("{}{}: {}", where, refused.object(), refused.reason()));
}

std::string progress_of(const engine::model::MigrationEvent& event) {
  if (event.has_state())
    return printable(fmt::format("{}{}{}", event.state().state(), event.state().detail().empty() ? "" : ": ",
                                 event.state().detail()));
  if (event.has_link())
    return printable(fmt::format("link: {}, since {}", event.link().transport(), event.link().why()));
  const engine::model::RoundDone& round = event.round();
  std::string line = fmt::format(
      "round {}: {} of {} pages, {} in {}, {}; dirty {}", round.round(), round.pages_sent(),
      round.pages_due(), format_bytes(round.bytes_sent()), format_duration_us(round.duration_us()),
      format_rate(round.throughput_bytes_per_second()), format_rate(round.dirty_bytes_per_second()));
  if (round.throttle_percent() != 0) line += fmt::format("; throttled to {} %", round.throttle_percent());
  if (!round.decision().empty()) line += "; " + round.decision();
  return printable(line);
}

std::string summary_of(const MigrationResult& result) {
  return fmt::format(
      "{}: moved in {}, {} rounds, downtime {}\n"
      "  memory {}, sent {} ({} pages, {} zero, {} unchanged){}\n"
      "  round 0 at {}, dirtied {} at last; tracker {}, {} frames parked\n"
      "  transport {}, since {}\n",
      printable(result.id()), format_duration_us(result.total_us()), result.rounds(),
      format_duration_us(result.downtime_us()), format_bytes(result.memory_bytes()),
      format_bytes(result.bytes_sent()), result.pages_sent(), result.pages_zero(), result.pages_unchanged(),
      result.verified() ? ", verified" : "", format_rate(result.throughput_bytes_per_second()),
      format_rate(result.dirty_bytes_per_second()), printable(result.tracker()), result.parked_frames(),
      printable(result.transport()), printable(result.transport_reason()));
}

namespace {

struct Row {
  const TimelineEntry* entry;
  unsigned depth;
  std::string label;
};

// By start; of two that start together, the longer, which holds the other, first.
std::vector<Row> ordered_rows(const MigrationResult& result) {
  std::vector<Row> rows;
  for (const TimelineEntry& entry : result.timeline()) {
    const std::string& phase = entry.phase();
    const size_t slash = phase.rfind('/');
    rows.push_back({.entry = &entry,
                    .depth = static_cast<unsigned>(std::ranges::count(phase, '/')),
                    .label = slash == std::string::npos ? phase : phase.substr(slash + 1)});
  }
  std::ranges::stable_sort(rows, [](const Row& left, const Row& right) {
    if (left.entry->start_us() != right.entry->start_us())
      return left.entry->start_us() < right.entry->start_us();
    return left.entry->duration_us() > right.entry->duration_us();
  });
  return rows;
}

struct Window {
  int64_t start_us = 0;
  int64_t end_us = 0;
};

// The bars show the cutover; what lies outside of it would leave it no room.
Window cutover_of(const MigrationResult& result) {
  Window window{.start_us = INT64_MAX, .end_us = INT64_MIN};
  for (const TimelineEntry& entry : result.timeline()) {
    if (!entry.phase().starts_with("cutover")) continue;
    window.start_us = std::min(window.start_us, entry.start_us());
    window.end_us = std::max(window.end_us, entry.start_us() + entry.duration_us());
  }
  if (window.start_us < window.end_us) return window;
  return {.start_us = 0, .end_us = static_cast<int64_t>(result.total_us())};
}

}  // namespace

std::string timeline_of(const MigrationResult& result, unsigned columns) {
  constexpr unsigned kFixed = 2 + 8 + 12 + 12 + 2;
  constexpr unsigned kBarMin = 10;
  const std::vector<Row> rows = ordered_rows(result);
  size_t label_width = sizeof "PHASE" - 1;
  for (const Row& row : rows) label_width = std::max(label_width, size_t{2} * row.depth + row.label.size());
  const unsigned used = kFixed + static_cast<unsigned>(label_width);
  const unsigned bar = columns > used + kBarMin ? columns - used : kBarMin;
  const Window window = cutover_of(result);
  std::string text =
      fmt::format("{:<8}{:<{}}  {:>12}{:>12}  |cutover, {}\n", "SIDE", "PHASE", label_width, "START us",
                  "LENGTH us", format_duration_us(static_cast<uint64_t>(window.end_us - window.start_us)));
  for (const Row& row : rows) {
    const int64_t start_us = std::max(row.entry->start_us(), window.start_us);
    const int64_t end_us = std::min(row.entry->start_us() + row.entry->duration_us(), window.end_us);
    const bool visible = start_us <= end_us;
    std::string line =
        fmt::format("{:<8}{:<{}}  {:>12}{:>12}  {}", printable(row.entry->side()),
                    std::string(size_t{2} * row.depth, ' ') + printable(row.label), label_width,
                    row.entry->start_us(), row.entry->duration_us(),
                    visible ? format_bar(static_cast<double>(start_us - window.start_us),
                                         static_cast<double>(end_us - start_us),
                                         static_cast<double>(window.end_us - window.start_us), bar)
                            : "");
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace godwit::tools
