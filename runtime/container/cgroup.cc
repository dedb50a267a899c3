#include "runtime/container/cgroup.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <set>
#include <sstream>
#include <string_view>

#include "base/fd.h"

namespace godwit::runtime {
namespace {

bool lists(std::string_view commas, std::string_view word) {
  while (!commas.empty()) {
    const size_t comma = commas.find(',');
    if (commas.substr(0, comma) == word) return true;
    if (comma == std::string_view::npos) return false;
    commas.remove_prefix(comma + 1);
  }
  return false;
}

struct Mount {
  std::string root;   // what of the hierarchy is mounted
  std::string point;  // where
};

// proc(5), mountinfo: "ID PARENT DEV ROOT POINT OPTIONS [OPTIONAL...] - TYPE SOURCE SUPER_OPTIONS". Cgroup
// paths hold no character that would be escaped there.
Result<Mount> find_mount(const std::string& controller) {
  GODWIT_ASSIGN(const std::string text, read_file("/proc/self/mountinfo"));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream head(line.substr(0, dash));
    std::istringstream tail(line.substr(dash + 3));
    std::string skip;
    std::string type;
    std::string options;
    Mount mount;
    head >> skip >> skip >> skip >> mount.root >> mount.point;
    tail >> type >> skip >> options;
    const bool match =
        controller.empty() ? type == "cgroup2" : type == "cgroup" && lists(options, controller);
    if (match) return mount;
  }
  return fail("find", controller.empty() ? "the cgroup v2 hierarchy" : "the cgroup hierarchy " + controller,
              ENOENT);
}

// proc(5), cgroup: "ID:CONTROLLERS:PATH", v2's line is "0::PATH".
Result<std::string> path_in_hierarchy(const std::string& process, const std::string& controller) {
  const std::string file = "/proc/" + process + "/cgroup";
  GODWIT_ASSIGN(const std::string text, read_file(file));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string_view names = std::string_view(line).substr(first + 1, second - first - 1);
    if (controller.empty() ? names.empty() && line.starts_with("0:") : lists(names, controller))
      return line.substr(second + 1);
  }
  return fail("find the cgroup " + controller + " in", file, ENOENT);
}

Result<std::string> directory_of(const std::string& process, const std::string& controller) {
  GODWIT_ASSIGN(const Mount mount, find_mount(controller));
  GODWIT_ASSIGN(std::string path, path_in_hierarchy(process, controller));
  if (mount.root != "/") {
    if (path != mount.root && !path.starts_with(mount.root + "/"))
      return fail("find", "cgroup " + path, ENOENT, "it lies outside of what is mounted on " + mount.point);
    path.erase(0, mount.root.size());
  }
  while (path.ends_with('/')) path.pop_back();
  return mount.point + path;
}

}  // namespace

Result<std::string> cgroup_directory(pid_t pid, const std::string& controller) {
  GODWIT_ASSIGN(std::string directory, directory_of(std::to_string(pid), controller));
  GODWIT_ASSIGN(const Mount mount, find_mount(controller));
  if (directory == mount.point)
    return fail("find a cgroup of", "pid " + std::to_string(pid), ENOENT, "it is in the root cgroup");
  return directory;
}

Result<bool> cgroup_holds_caller(const std::string& directory, const std::string& controller) {
  GODWIT_ASSIGN(const std::string ours, directory_of("self", controller));
  return ours == directory || ours.starts_with(directory + "/");
}

Result<uint64_t> cgroup_number(const std::string& path, const std::string& key, uint64_t unlimited) {
  GODWIT_ASSIGN(const std::string text, read_file(path, 65536));
  std::istringstream words(text);
  std::string word;
  if (!key.empty())
    while (words >> word && word != key) words >> word;
  if (!(words >> word)) return refuse("read", path, "there is no number" + (key.empty() ? "" : " " + key));
  if (word == "max" || word.starts_with('-')) return unlimited;
  uint64_t number = 0;
  const auto [end, code] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (code != std::errc() || end != word.data() + word.size())
    return refuse("read", path, "'" + word + "' is not a number");
  return number;
}

Result<std::vector<pid_t>> processes_in_cgroup(const std::string& path) {
  const std::filesystem::path mounts = "/sys/fs/cgroup";
  std::vector<std::filesystem::path> trees = {mounts / path};
  std::error_code error;
  for (const auto& hierarchy : std::filesystem::directory_iterator(mounts, error))
    if (hierarchy.is_directory(error)) trees.push_back(hierarchy.path() / path);
  if (error) return fail("list", mounts, error.value());
  std::set<pid_t> found;
  for (const std::filesystem::path& tree : trees) {
    if (!std::filesystem::exists(tree, error)) continue;
    std::vector<std::filesystem::path> directories = {tree};
    for (const auto& entry : std::filesystem::recursive_directory_iterator(tree, error))
      if (entry.is_directory(error)) directories.push_back(entry.path());
    for (const std::filesystem::path& directory : directories) {
      const auto text = read_file(directory / "cgroup.procs");
      // Gone meanwhile, or threaded: then the process counts in the cgroup above (cgroups(7)).
      if (!text &&
          (text.error().code == ENOENT || text.error().code == ENODEV || text.error().code == EOPNOTSUPP))
        continue;
      if (!text) return std::unexpected(text.error());
      std::istringstream numbers(*text);
      for (pid_t pid = 0; numbers >> pid;) found.insert(pid);
    }
  }
  return std::vector<pid_t>(found.begin(), found.end());
}

Result<bool> is_frozen(const std::string& path) {
  const std::filesystem::path mounts = "/sys/fs/cgroup";
  const std::filesystem::path files[] = {mounts / path / "cgroup.freeze",
                                         mounts / "unified" / path / "cgroup.freeze",
                                         mounts / "freezer" / path / "freezer.state"};
  for (const std::filesystem::path& file : files) {
    const auto text = read_file(file, 64);
    if (!text && text.error().code != ENOENT && text.error().code != ENODEV)
      return std::unexpected(text.error());
    if (text && (text->starts_with('1') || text->starts_with("FR"))) return true;
  }
  return false;
}

std::optional<pid_t> find_init(const std::vector<pid_t>& processes) {
  std::optional<pid_t> init;
  size_t depth_of_init = 0;
  for (const pid_t pid : processes) {
    // "NSpid:\t4711\t1": its numbers from our pid namespace inwards.
    std::istringstream lines(read_file("/proc/" + std::to_string(pid) + "/status").value_or(""));
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("NSpid:")) continue;
      std::istringstream words(line.substr(line.find(':') + 1));
      size_t depth = 0;
      pid_t number = 0;
      while (words >> number) ++depth;
      if (number != 1 || depth < 2 || (init && depth >= depth_of_init)) continue;
      init = pid;
      depth_of_init = depth;
    }
  }
  return init;
}

}  // namespace godwit::runtime
