// godwitd: the agent of one host. See --help.
#include <fcntl.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "base/identifier.h"
#include "base/socket_address.h"
#include "engine/session/steps.h"
#include "engine/session/worker.h"
#include "tools/godwitd/service.h"

namespace godwit::tools {
namespace {

constexpr auto kCallsEndIn = std::chrono::seconds(2);
constexpr int kLargestMessage = 64 << 20;

int stop_fd = -1;

void on_stop_signal(int) {
  const uint64_t one = 1;
  const int saved = errno;
  // Nothing can be done about a failure here, and an eventfd that is full has told already.
  (void)!::write(stop_fd, &one, sizeof one);
  errno = saved;
}

// Handlers, not blocked or ignored signals: those would be inherited by containers (execve(2)).
Result<Fd> watch_signals() {
  Fd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return fail("make", "an eventfd");
  stop_fd = stop.get();
  struct sigaction action {};
  action.sa_flags = SA_RESTART;
  action.sa_handler = on_stop_signal;
  if (::sigaction(SIGTERM, &action, nullptr) != 0 || ::sigaction(SIGINT, &action, nullptr) != 0)
    return fail("handle", "SIGTERM and SIGINT");
  action.sa_handler = [](int) {};
  if (::sigaction(SIGPIPE, &action, nullptr) != 0) return fail("handle", "SIGPIPE");
  return stop;
}

void start_log(const std::string& name, const std::string& level) {
  auto logger = spdlog::stderr_color_mt("godwit");
  logger->set_pattern(name.empty() ? "%H:%M:%S.%e %L worker %P: %v" : "%H:%M:%S.%e %L " + name + ": %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(logger);
}

struct CommandLine {
  engine::KeeperOptions agent;
  std::string api;
  std::string log_level = "info";
};

void declare_options(CLI::App& app, CommandLine& line) {
  app.description(
      "The agent of one host: keeps containers, and moves them to and from other hosts.\n"
      "Containers outlive it; the next agent of the same --root finds them again.");
  app.footer(
      "Example:\n  godwitd --name a --root /var/lib/godwit --listen 10.0.0.1:7100 --api "
      "unix:/run/godwit.sock\n\n"
      "--listen is not authenticated: give it an address of a network that only hosts share.\n"
      "SIGTERM ends it: migrations are cancelled, containers run on.\n\n"
      "Exit status: 0 ended by SIGTERM or SIGINT; 1 it could not start; 2 called wrongly.");
  app.add_option("--name", line.agent.name, "this host's name, unique among hosts and on this machine")
      ->required();
  app.add_option("--root", line.agent.root, "directory for records, logs and state")->required();
  app.add_option("--listen", line.agent.listen, "ADDR:PORT for migrations that come in")->required();
  app.add_option("--advertise", line.agent.advertised,
                 "ADDR:PORT at which other agents reach this one, if that is not --listen's; the best first");
  app.add_option("--api", line.api, "unix:PATH of the API's socket (mode 0600)")->required();
  app.add_option("--bridge", line.agent.bridge, "the bridge that containers are attached to")
      ->default_val("godwit0");
  app.add_option("--cni-plugins", line.agent.cni_plugins, "directory of the CNI plugins")
      ->default_val("/usr/lib/cni");
  app.add_option("--rdma", line.agent.rdma,
                 "the RDMA device for migrations: auto (the one that --listen's address, or the way to the\n"
                 "other host, belongs to), off, a device's name, or an address of its interface")
      ->default_val("auto");
  app.add_option("--log-level", line.log_level, "trace, debug, info, warn, error, off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
}

// Another agent asks this one at the address that it was given: a wildcard would be that agent itself.
Result<void> check_addresses(engine::KeeperOptions& agent) {
  // As the kernel will understand it: there are many ways to write one.
  const auto is_wildcard = [](const SocketAddress& address) {
    const std::string host = host_of(address.get());
    return host == "0.0.0.0" || host == "::" || host == "::ffff:0.0.0.0";
  };
  GODWIT_ASSIGN(const HostPort listen, parse_host_port(agent.listen));
  GODWIT_ASSIGN(const SocketAddress listened, parse_address(listen.host, listen.port));
  if (agent.advertised.empty() && is_wildcard(listened))
    return refuse(
        "accept --listen", agent.listen,
        "other agents cannot ask this one there; add --advertise ADDR:PORT with an address that they reach");
  if (agent.advertised.empty()) agent.advertised = {agent.listen};
  constexpr size_t kAddressesMax = 4;
  if (agent.advertised.size() > kAddressesMax)
    return refuse("accept --advertise", "its addresses", "4 are the most");
  for (const std::string& address : agent.advertised) {
    GODWIT_ASSIGN(const HostPort place, parse_host_port(address));
    GODWIT_ASSIGN(const SocketAddress advertised, parse_address(place.host, place.port));
    if (is_wildcard(advertised) || place.port == 0)
      return refuse("accept --advertise", address, "it must be an address that other hosts reach");
  }
  return {};
}

Result<void> check_options(CommandLine& line) {
  GODWIT_TRY(check_identifier("name", line.agent.name));
  GODWIT_TRY(check_addresses(line.agent));
  if (!line.api.starts_with("unix:/"))
    return refuse("accept --api", line.api, "it must be unix: and an absolute path");
  std::error_code error;
  line.agent.root = std::filesystem::absolute(line.agent.root, error).lexically_normal();
  if (error) return fail("resolve", "--root", error.value());
  if (line.agent.root.ends_with('/')) line.agent.root.pop_back();
  // Tests break a session at a given step: engine/session/fault.h.
  if (const char* fault = std::getenv("GODWIT_FAULT")) line.agent.fault = fault;
  if (::geteuid() != 0) return refuse("start", "godwitd", "containers, namespaces and ptrace need root");
  return {};
}

Result<void> serve(const CommandLine& line) {
  GODWIT_ASSIGN(const Fd stop, watch_signals());
  engine::Keeper keeper(line.agent);
  GODWIT_TRY(keeper.start());
  AgentService service(keeper);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(line.api, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  builder.SetMaxReceiveMessageSize(kLargestMessage);
  const mode_t mask = ::umask(0177);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ::umask(mask);
  if (server == nullptr) return refuse("listen at", line.api, "does its directory exist, and is it ours?");
  spdlog::info("ready; migrations at {}, API at {}", line.agent.listen, line.api);
  uint64_t told = 0;
  while (::read(stop.get(), &told, sizeof told) < 0 && errno == EINTR) {
  }
  spdlog::info("ending; containers run on");
  keeper.shut_down();
  server->Shutdown(std::chrono::system_clock::now() + kCallsEndIn);
  // Threads that wait for another agent's answer, or for an old worker, have nothing to put in order.
  spdlog::shutdown();
  std::_Exit(0);
}

int run_main(int argc, char** argv) {
  CommandLine line;
  CLI::App app;
  declare_options(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::cerr << "godwitd: " << error.what() << " (see godwitd --help)\n";
    return 2;
  }
  if (auto checked = check_options(line); !checked) {
    std::cerr << "godwitd: " << checked.error().to_string() << "\n";
    return 2;
  }
  start_log(line.agent.name, line.log_level);
  ::setenv("GODWIT_LOG_LEVEL", line.log_level.c_str(), 1);
  const auto served = serve(line);
  std::cerr << "godwitd: " << served.error().to_string() << "\n" << std::flush;
  // The agent's threads may be at work on what they found.
  std::_Exit(1);
}

// For tests that strike at each.
int print_steps() {
  for (const std::string_view step : engine::kSteps) std::cout << step << "\n";
  return 0;
}

int worker_main() {
  const char* level = std::getenv("GODWIT_LOG_LEVEL");
  start_log("", level != nullptr ? level : "info");
  const bool connected = ::fcntl(engine::kWorkerConnectionFd, F_GETFD) >= 0;
  return engine::run_worker(Fd(engine::kWorkerAgentFd), connected ? Fd(engine::kWorkerConnectionFd) : Fd());
}

}  // namespace
}  // namespace godwit::tools

int main(int argc, char** argv) try {
  if (argc == 2 && std::string_view(argv[1]) == "steps") return godwit::tools::print_steps();
  // A session's worker process: engine/worker.h.
  if (argc == 2 && std::string_view(argv[1]) == "worker") return godwit::tools::worker_main();
  return godwit::tools::run_main(argc, argv);
} catch (...) {
  // Libraries throw when memory is out. Containers run on; the next agent finds them again.
  std::fputs("godwitd: an unforeseen failure of a library\n", stderr);
  return 1;
}
