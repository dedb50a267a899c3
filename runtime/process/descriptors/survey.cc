#include "runtime/process/descriptors/survey.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <set>

#include "runtime/process/descriptors/device_number.h"

namespace godwit::runtime {
namespace {

bool entry_is_gone(const Error& error) {
  return error.code == ENOENT || error.code == EBADF || error.code == ESRCH;
}

// The memory devices by minor number; they may have been opened outside of the container.
std::string device_path(dev_t device) {
  constexpr std::array<const char*, 10> kNames = {"",     "", "",     "null",   "",
                                                  "zero", "", "full", "random", "urandom"};
  return std::string("/dev/") + kNames[minor_of(device) % kNames.size()];
}

}  // namespace

const SurveyedDescriptor* Survey::find(size_t process, int number) const {
  const auto key = std::pair(process, number);
  const auto place = std::ranges::lower_bound(
      descriptors, key, {}, [](const SurveyedDescriptor& one) { return std::pair(one.process, one.number); });
  return place != descriptors.end() && place->process == process && place->number == number ? &*place
                                                                                            : nullptr;
}

Result<Surveyor> Surveyor::open(pid_t init_pid, const std::string& log_path) {
  Surveyor surveyor;
  const std::string root = "/proc/" + std::to_string(init_pid) + "/root";
  GODWIT_ASSIGN(surveyor.root_, open_file(root, O_PATH | O_DIRECTORY));
  char path[PATH_MAX];
  const ssize_t length = ::readlink(root.c_str(), path, sizeof path);
  if (length > 0) surveyor.root_path_.assign(path, static_cast<size_t>(length));
  if (surveyor.root_path_ == "/") surveyor.root_path_.clear();
  surveyor.log_path_ = log_path;
  return surveyor;
}

// Finds the path inside the container, and sees to it that it leads to the very same file.
void Surveyor::locate(Knowledge& knowledge) const {
  const std::string& link = knowledge.facts.link;
  if (knowledge.kind == ObjectKind::kDevice) {
    knowledge.path = device_path(knowledge.facts.status.st_rdev);
    return;
  }
  if (knowledge.kind != ObjectKind::kFile && knowledge.kind != ObjectKind::kFifo) return;
  knowledge.path = link;
  if (!root_path_.empty() && link.starts_with(root_path_ + "/"))
    knowledge.path = link.substr(root_path_.size());
  const auto found = open_in_root(root_.get(), knowledge.path, O_PATH | O_NOFOLLOW);
  struct stat status {};
  if (found && ::fstat(found->get(), &status) == 0 && status.st_dev == knowledge.facts.status.st_dev &&
      status.st_ino == knowledge.facts.status.st_ino)
    return;
  knowledge.reason = "file " + link +
                     " is not what this path leads to inside the container: a file of the host, "
                     "or one that was replaced";
}

Result<const Knowledge*> Surveyor::know(pid_t pid, const TableEntry& entry, bool exact) {
  const auto key = std::pair(pid, entry.number);
  const auto place = known_.find(key);
  // The same path may lead to another file now. The frozen round sees that by the inode, and must be short.
  // Memfds are many under one name: of them the inode is always asked.
  const bool lasting = !entry.link.starts_with("/") || (exact && !entry.link.starts_with("/memfd:"));
  if (lasting && place != known_.end() && place->second.facts.link == entry.link) return &place->second;
  Knowledge knowledge;
  GODWIT_ASSIGN(knowledge.facts, learn(thief_, pid, entry));
  const ObjectClass found = classify(knowledge.facts, log_);
  knowledge.kind = found.kind;
  knowledge.reason = found.reason;
  if (knowledge.reason.empty()) locate(knowledge);
  return &(known_[key] = std::move(knowledge));
}

// A description keeps the id that one of its descriptors had in the last survey, unless another claims it.
void Surveyor::name_ids(Survey& survey, const std::vector<CapturedProcess>& processes) {
  std::set<uint64_t> taken;
  std::map<std::pair<pid_t, int>, uint64_t> names;
  for (const SurveyedDescriptor& one : survey.descriptors) {
    SurveyedDescription& description = survey.descriptions[one.description];
    const auto before = ids_.find({processes[one.process].host_pid, one.number});
    if (description.id == 0 && before != ids_.end() && taken.insert(before->second).second)
      description.id = before->second;
  }
  for (SurveyedDescription& description : survey.descriptions)
    if (description.id == 0) description.id = ++last_id_;
  for (const SurveyedDescriptor& one : survey.descriptors)
    names[{processes[one.process].host_pid, one.number}] = survey.descriptions[one.description].id;
  ids_ = std::move(names);
}

Result<Survey> Surveyor::survey(const std::vector<CapturedProcess>& processes, bool exact) {
  if (log_path_.empty() || ::stat(log_path_.c_str(), &log_) != 0) log_ = {};
  Survey survey;
  SharingIndex sharing;
  for (size_t i = 0; i < processes.size(); ++i) {
    const pid_t pid = processes[i].host_pid;
    auto entries = list_table(pid);
    if (!entries && !exact && entry_is_gone(entries.error())) continue;
    if (!entries) return std::unexpected(entries.error());
    for (const TableEntry& entry : *entries) {
      const auto knowledge = know(pid, entry, exact);
      const auto index = knowledge ? sharing.find(entry.link, {pid, entry.number})
                                   : Result<size_t>(std::unexpected(knowledge.error()));
      if (!index && !exact && entry_is_gone(index.error())) continue;
      if (!index) return std::unexpected(index.error());
      if (*index == survey.descriptions.size())
        survey.descriptions.push_back({.id = 0, .at = {pid, entry.number}, .knowledge = *knowledge});
      survey.descriptors.push_back({.process = i, .number = entry.number, .description = *index});
    }
  }
  name_ids(survey, processes);
  return survey;
}

}  // namespace godwit::runtime
