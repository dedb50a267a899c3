#include "runtime/network/cni.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"

namespace godwit::runtime {
namespace {

using nlohmann::json;

constexpr int64_t kPluginDeadlineMs = 30'000;
constexpr size_t kPluginOutputBytesMax = size_t{1} << 20;

struct Pipe {
  Fd read;
  Fd write;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail("make", "a pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

std::string configuration(const CniCall& call) {
  json address = {{"address", call.address}};
  if (!call.gateway.empty()) address["gateway"] = call.gateway;
  json ipam = {{"type", "static"}, {"addresses", json::array({address})}};
  if (!call.gateway.empty()) {
    const bool ipv6 = call.gateway.find(':') != std::string::npos;
    ipam["routes"] = json::array({{{"dst", ipv6 ? "::/0" : "0.0.0.0/0"}, {"gw", call.gateway}}});
  }
  return json({{"cniVersion", "0.4.0"},
               {"name", "godwit"},
               {"type", "bridge"},
               {"bridge", call.bridge},
               {"isGateway", false},
               {"ipMasq", false},
               {"mtu", call.mtu},
               {"capabilities", {{"mac", true}}},
               {"runtimeConfig", {{"mac", call.mac}}},
               {"ipam", ipam}})
      .dump();
}

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// What a plugin says went wrong, in one line.
std::string complaint(const std::string& output) {
  const json said = json::parse(output, nullptr, false);
  std::string text = said.is_object() ? text_of(said, "msg") + " " + text_of(said, "details") : output;
  std::ranges::replace(text, '\n', ' ');
  text.resize(std::min<size_t>(text.size(), 500));
  return text;
}

// Until end of file; the plugin is killed when it takes too long or says too much.
Result<std::string> read_output(int fd, const std::string& name) {
  const int64_t deadline_ms = monotonic_us() / 1000 + kPluginDeadlineMs;
  std::string output;
  std::array<char, 4096> buffer{};
  for (;;) {
    const int64_t left_ms = std::max<int64_t>(deadline_ms - monotonic_us() / 1000, 0);
    pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&wait, 1, static_cast<int>(left_ms));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return fail("read the answer of", name);
    if (ready == 0) return fail("wait for", name, ETIMEDOUT);
    const ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail("read the answer of", name);
    if (count == 0) return output;
    output.append(buffer.data(), static_cast<size_t>(count));
    if (output.size() > kPluginOutputBytesMax) return fail("read the answer of", name, EFBIG);
  }
}

// -1 if somebody else (an agent that reaps all its children) took the status.
int reap(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return status;
}

Result<pid_t> spawn(const std::string& path, const std::vector<std::string>& environment, int input,
                    int output) {
  std::vector<char*> variables;
  variables.reserve(environment.size() + 1);
  for (const std::string& entry : environment) variables.push_back(const_cast<char*>(entry.c_str()));
  variables.push_back(nullptr);
  std::array<char*, 2> arguments = {const_cast<char*>(path.c_str()), nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  // A tracer blocks SIGCHLD; what it starts shall not.
  sigset_t none;
  ::sigemptyset(&none);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = -1;
  const int error =
      ::posix_spawn(&pid, path.c_str(), &actions, &attributes, arguments.data(), variables.data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    return fail("run", path, error, error == ENOENT ? "install the package containernetworking-plugins" : "");
  return pid;
}

Result<std::string> run_plugin(const CniCall& call, const std::string& command) {
  const std::string path = call.plugin_directory + "/bridge";
  GODWIT_ASSIGN(Pipe input, make_pipe());
  GODWIT_ASSIGN(Pipe output, make_pipe());
  const std::string text = configuration(call);
  // Written before anybody reads: it fits into the pipe, or the write fails.
  if (::fcntl(input.write.get(), F_SETFL, O_NONBLOCK) != 0) return fail("prepare a pipe to", path);
  if (::write(input.write.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return fail("write the configuration of", path);
  input.write.reset();
  const std::vector<std::string> environment = {"CNI_COMMAND=" + command,
                                                "CNI_CONTAINERID=" + call.container_id,
                                                "CNI_NETNS=" + call.network_namespace,
                                                std::string("CNI_IFNAME=") + kContainerInterface,
                                                "CNI_PATH=" + call.plugin_directory,
                                                "CNI_ARGS=IgnoreUnknown=1",
                                                "PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  GODWIT_ASSIGN(const pid_t pid, spawn(path, environment, input.read.get(), output.write.get()));
  input.read.reset();
  output.write.reset();
  auto answer = read_output(output.read.get(), path);
  if (!answer) ::kill(pid, SIGKILL);
  const int status = reap(pid);
  if (!answer) return answer;
  const json said = json::parse(*answer, nullptr, false);
  const bool complained = said.is_object() && said.contains("code");
  if ((status != -1 && status != 0) || complained)
    return refuse("run the CNI plugin's " + command, path, complaint(*answer));
  return answer;
}

}  // namespace

Result<std::string> read_cni_result(const std::string& text, const CniCall& call) {
  const std::string plugin = call.plugin_directory + "/bridge";
  const json result = json::parse(text, nullptr, false);
  const auto interfaces = result.is_object() ? result.find("interfaces") : result.end();
  if (!result.is_object() || interfaces == result.end() || !interfaces->is_array())
    return refuse("understand the result of", plugin, "no list of interfaces in it");
  std::string host;
  bool inside = false;
  for (const json& entry : *interfaces) {
    if (!entry.is_object()) continue;
    const std::string name = text_of(entry, "name");
    if (text_of(entry, "sandbox") == call.network_namespace && name == kContainerInterface)
      inside = text_of(entry, "mac") == call.mac;
    else if (text_of(entry, "sandbox").empty() && name != call.bridge)
      host = name;
  }
  if (!inside)
    return refuse("understand the result of", plugin, "the interface does not have the MAC " + call.mac);
  if (host.empty() || host.size() >= IFNAMSIZ || host.find('/') != std::string::npos)
    return refuse("understand the result of", plugin, "it names no usable interface of the host");
  return host;
}

Result<std::string> cni_add(const CniCall& call) {
  GODWIT_ASSIGN(const std::string output, run_plugin(call, "ADD"));
  return read_cni_result(output, call);
}

Result<void> cni_del(const CniCall& call) {
  GODWIT_TRY(run_plugin(call, "DEL"));
  return {};
}

}  // namespace godwit::runtime
