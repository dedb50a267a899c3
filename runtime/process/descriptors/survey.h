// A survey: all descriptors of all processes with their kinds, sharing and stable ids. The common part of
// preflight, live and frozen capture.
#pragma once

#include <map>
#include <unordered_map>

#include "runtime/process/descriptors/table.h"

namespace godwit::runtime {

// What is known of a descriptor, as long as its number has the same link.
struct Knowledge {
  ObjectFacts facts;
  ObjectKind kind = ObjectKind::kInvalid;
  std::string reason;  // of the refusal; empty if it can be moved
  std::string path;    // of files: inside the container
};

struct SurveyedDescriptor {
  size_t process = 0;  // index of the processes given
  int number = -1;
  size_t description = 0;
};

struct SurveyedDescription {
  uint64_t id = 0;
  Holder at;
  const Knowledge* knowledge = nullptr;
};

struct Survey {
  std::vector<SurveyedDescriptor> descriptors;  // by process, ascending numbers
  std::vector<SurveyedDescription> descriptions;
  [[nodiscard]] const SurveyedDescriptor* find(size_t process, int number) const;
};

class Surveyor {
 public:
  static Result<Surveyor> open(pid_t init_pid, const std::string& log_path);
  // `exact`: the processes are frozen, so nothing may vanish.
  Result<Survey> survey(const std::vector<CapturedProcess>& processes, bool exact);
  DescriptorThief& thief() { return thief_; }
  [[nodiscard]] int root() const { return root_.get(); }
  [[nodiscard]] const std::string& root_path() const { return root_path_; }  // empty: "/"

 private:
  Surveyor() = default;
  Result<const Knowledge*> know(pid_t pid, const TableEntry& entry, bool exact);
  void locate(Knowledge& knowledge) const;
  void name_ids(Survey& survey, const std::vector<CapturedProcess>& processes);

  Fd root_;
  std::string root_path_;
  std::string log_path_;
  struct stat log_ {};
  DescriptorThief thief_;
  std::map<std::pair<pid_t, int>, Knowledge> known_;
  std::map<std::pair<pid_t, int>, uint64_t> ids_;  // of the last survey
  uint64_t last_id_ = 0;
};

}  // namespace godwit::runtime
