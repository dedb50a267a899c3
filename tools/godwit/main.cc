// godwit: the command line of one agent. See --help.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>

#include "base/units.h"
#include "tools/godwit/commands.h"
#include "tools/godwit/exit_codes.h"
#include "tools/godwit/terminal.h"

namespace godwit::tools {
namespace {

constexpr const char* kExitStatus =
    "Exit status:\n"
    "  0  done\n"
    "  1  failed; the container runs on (where it was, unless the message says otherwise)\n"
    "  2  called wrongly\n"
    "  3  the preflight found what cannot be moved; nothing was touched\n"
    "  4  no agent answers at --api\n"
    "  5  what became of the container is not known: see ps of both agents\n"
    "  godwit exec passes on the status of the command.";

constexpr const char* kContainer = "the container, by its name in `godwit ps`";

// What a subcommand's options turn into: the call, to be made once all of the command line has been read.
using Action = std::function<int(Client&)>;

template <typename T>
T value_or_throw(Result<T> result, const char* option) {
  if (!result) throw CLI::ValidationError(option, result.error().to_string());
  return *std::move(result);
}

// An option whose text is parsed by `parse` and given to `set`.
template <typename T, typename Set>
CLI::Option* add_quantity(CLI::App* command, const char* name, Result<T> (*parse)(std::string_view), Set set,
                          const char* text) {
  return command->add_option_function<std::string>(
      name, [=](const std::string& value) { set(value_or_throw(parse(value), name)); }, text);
}

CLI::App* add_command(CLI::App& app, const char* name, const char* description, const std::string& examples) {
  CLI::App* const command = app.add_subcommand(name, description);
  command->footer("Examples:\n" + examples + "\n\n" + kExitStatus);
  return command;
}

void declare_run(CLI::App& app, Action& action) {
  CLI::App* const command = add_command(
      app, "run", "create a container from an OCI bundle and start it",
      "  godwit run /srv/bundles/redis --id db1 --ip 10.7.0.5/24\n"
      "  godwit run ./redis --id db2 --ip 10.7.0.6/24 --gateway 10.7.0.1 --memory-limit 256MiB --cpus 1.5\n"
      "  godwit run ./redis --id db3 --ip 10.7.0.7/24 --env production --group databases");
  const auto request = std::make_shared<api::v1::RunRequest>();
  const auto text = [command](const char* name, const std::function<void(const std::string&)>& set,
                              const char* help) {
    return command->add_option_function<std::string>(name, set, help);
  };
  text(
      "bundle",
      [request](const std::string& bundle) {
        std::error_code error;
        request->set_bundle(std::filesystem::absolute(bundle, error).lexically_normal());
      },
      "directory with config.json and rootfs; seen by all hosts at the same path")
      ->required();
  text(
      "--id", [request](const std::string& id) { request->set_id(id); }, "its name, unique on the host")
      ->required();
  text(
      "--ip", [request](const std::string& ip) { request->set_address(ip); },
      "its address, ADDR/PREFIX; it keeps it wherever it moves")
      ->required();
  text(
      "--gateway", [request](const std::string& gateway) { request->set_gateway(gateway); },
      "its default route");
  text(
      "--hostname", [request](const std::string& name) { request->set_hostname(name); }, "default: the id");
  text(
      "--env", [request](const std::string& name) { request->set_environment(name); },
      "environment it belongs to");
  text(
      "--group", [request](const std::string& group) { request->set_anti_affinity_group(group); },
      "anti-affinity group: two of one group do not share a host");
  add_quantity(
      command, "--memory-limit", parse_bytes, [request](uint64_t n) { request->set_memory_limit_bytes(n); },
      "such as 256MiB or 1.5G");
  add_quantity(
      command, "--cpus", parse_cpus, [request](uint32_t n) { request->set_cpu_millis(n); },
      "processors, such as 1.5");
  command->callback(
      [request, &action] { action = [request](Client& client) { return run(client, *request); }; });
}

void declare_list(CLI::App& app, Action& action) {
  CLI::App* const command = add_command(app, "ps", "list the containers of the host",
                                        "  godwit ps\n  godwit ps --json | jq '.containers[].id'");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "one JSON object");
  command->callback([json, &action] { action = [json](Client& client) { return list(client, *json); }; });
}

void declare_stop(CLI::App& app, Action& action) {
  CLI::App* const command = add_command(app, "stop", "end a container: SIGTERM, then SIGKILL",
                                        "  godwit stop db1\n  godwit stop db1 --grace 30s");
  const auto request = std::make_shared<api::v1::StopRequest>();
  command
      ->add_option_function<std::string>(
          "id", [request](const std::string& id) { request->set_id(id); }, kContainer)
      ->required();
  add_quantity(
      command, "--grace", parse_duration_us,
      [request](uint64_t us) {
        request->set_grace_ms(
            static_cast<uint32_t>(std::min<uint64_t>(std::max<uint64_t>(us / 1000, 1), 600'000)));
      },
      "time between the two signals, default 10s, at most 10m");
  command->callback(
      [request, &action] { action = [request](Client& client) { return stop(client, *request); }; });
}

void declare_remove(CLI::App& app, Action& action) {
  CLI::App* const command = add_command(app, "rm", "delete stopped containers, their networks and logs",
                                        "  godwit rm db1\n  godwit rm --force db1 db2");
  const auto ids = std::make_shared<std::vector<std::string>>();
  const auto force = std::make_shared<bool>(false);
  command->add_option("id", *ids, kContainer)->required();
  command->add_flag("-f,--force", *force, "kill running ones");
  command->callback([ids, force, &action] {
    action = [ids, force](Client& client) { return remove(client, *ids, *force); };
  });
}

void declare_logs(CLI::App& app, Action& action) {
  CLI::App* const command = add_command(
      app, "logs", "what a container wrote to stdout and stderr on this host, its newest 8 MiB at least",
      "  godwit logs db1\n  godwit logs -f db1");
  const auto request = std::make_shared<api::v1::LogsRequest>();
  command
      ->add_option_function<std::string>(
          "id", [request](const std::string& id) { request->set_id(id); }, kContainer)
      ->required();
  command->add_flag_function(
      "-f,--follow", [request](int64_t) { request->set_follow(true); },
      "go on until the container has ended");
  command->callback(
      [request, &action] { action = [request](Client& client) { return logs(client, *request); }; });
}

void declare_exec(CLI::App& app, Action& action) {
  CLI::App* const command =
      add_command(app, "exec", "run a command inside a container and pass on its status",
                  "  godwit exec db1 -- redis-cli ping\n  godwit exec db1 -- sh -c 'ls -l /data'");
  const auto request = std::make_shared<api::v1::ExecRequest>();
  command
      ->add_option_function<std::string>(
          "id", [request](const std::string& id) { request->set_id(id); }, kContainer)
      ->required();
  command
      ->add_option_function<std::vector<std::string>>(
          "command",
          [request](const std::vector<std::string>& words) {
            // CLI11 passes the separator on.
            const size_t first = words.front() == "--" ? 1 : 0;
            for (size_t index = first; index < words.size(); ++index) request->add_command(words[index]);
          },
          "program and arguments; no shell is involved")
      ->required();
  command->positionals_at_end();
  command->callback(
      [request, &action] { action = [request](Client& client) { return execute(client, *request); }; });
}

void declare_migrate(CLI::App& app, Action& action) {
  CLI::App* const command =
      add_command(app, "migrate", "move a running container to another host; Ctrl-C cancels",
                  "  godwit migrate db1 --to 10.0.0.2:7100\n"
                  "  godwit migrate db1 --to 10.0.0.2:7100 --downtime 10ms --deadline 20s --timeline\n"
                  "  godwit migrate db1 --to 10.0.0.2:7100 --verify --json | tail -n 1 | jq .downtime_us");
  const auto options = std::make_shared<MigrateOptions>();
  engine::model::MigrationGoals* const goals = options->request.mutable_goals();
  command
      ->add_option_function<std::string>(
          "id", [options](const std::string& id) { options->request.set_id(id); }, kContainer)
      ->required();
  command
      ->add_option_function<std::string>(
          "--to", [options](const std::string& to) { options->request.set_target(to); },
          "ADDR:PORT of the other host's agent (its --listen)")
      ->required();
  add_quantity(
      command, "--downtime", parse_duration_us, [goals](uint64_t us) { goals->set_downtime_us(us); },
      "goal for the time it stands still, default 20ms");
  add_quantity(
      command, "--deadline", parse_duration_us,
      [goals](uint64_t us) { goals->set_deadline_ms(std::max<uint64_t>(us / 1000, 1)); },
      "the migration is over by then, or undone; default 30s");
  command
      ->add_option_function<uint32_t>(
          "--streams", [goals](uint32_t count) { goals->set_streams(count); },
          "streams for pages, 1 to 16; default: chosen")
      ->check(CLI::Range(1, 16));
  command
      ->add_option_function<std::string>(
          "--transport", [goals](const std::string& name) { goals->set_transport(name); },
          "auto (RDMA where both hosts have it, else TCP), tcp or rdma")
      ->check(CLI::IsMember({"auto", "tcp", "rdma"}));
  command
      ->add_option_function<std::string>(
          "--tracker", [goals](const std::string& name) { goals->set_tracker(name); },
          "how written pages are found: auto, uffd, soft-dirty or uffd-sync")
      ->check(CLI::IsMember({"auto", "uffd", "soft-dirty", "uffd-sync"}));
  command->add_flag_function(
      "--verify", [goals](int64_t) { goals->set_verify(true); }, "compare all memory of both ends");
  command->add_flag("--json", options->json, "one JSON object an event; the last line is the result");
  command->add_flag("--timeline", options->timeline, "print the phases of both ends to the microsecond");
  command->callback(
      [options, &action] { action = [options](Client& client) { return migrate(client, *options); }; });
}

void declare_check(CLI::App& app, Action& action) {
  CLI::App* const command =
      add_command(app, "check", "the preflight alone: can this container be moved?", "  godwit check db1");
  const auto id = std::make_shared<std::string>();
  const auto json = std::make_shared<bool>(false);
  command->add_option("id", *id, kContainer)->required();
  command->add_flag("--json", *json, "one JSON object");
  command->callback(
      [id, json, &action] { action = [id, json](Client& client) { return check(client, *id, *json); }; });
}

void declare_migrations(CLI::App& app, Action& action) {
  CLI::App* const command =
      add_command(app, "migrations", "what this host knows of migrations to and from it, newest first",
                  "  godwit migrations\n"
                  "  godwit migrations --json | jq '.migrations[] | select(.waiting)'");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "one JSON object");
  command->callback(
      [json, &action] { action = [json](Client& client) { return migrations(client, *json); }; });
}

void declare_inspect(CLI::App& app, Action& action) {
  CLI::App* const command =
      add_command(app, "inspect", "all about a container: its migrations, what it waits for, and the way out",
                  "  godwit inspect db1\n  godwit inspect db1 --json | jq .container.processes");
  const auto id = std::make_shared<std::string>();
  const auto json = std::make_shared<bool>(false);
  command->add_option("id", *id, kContainer)->required();
  command->add_flag("--json", *json, "one JSON object");
  command->callback(
      [id, json, &action] { action = [id, json](Client& client) { return inspect(client, *id, *json); }; });
}

void declare_resolve(CLI::App& app, Action& action) {
  CLI::App* const command = add_command(
      app, "resolve", "decide for a container that waits for a host that will never come back",
      "  godwit resolve db1 --runs-here                        # what is known, what would be done, and the "
      "risk\n"
      "  godwit resolve db1 --runs-here --peer 10.0.0.2:7100   # does it\n\n"
      "When a host is lost in the last moments of a migration, the other one cannot know whether the "
      "container runs\n"
      "there. It keeps its copy stopped and asks until that host answers, which needs no help: `godwit "
      "inspect`\n"
      "says what it waits for. Use this only if that host will never come back, or never with what it had: "
      "if it\n"
      "runs the container all the same, there are two, with one address and one set of files. It is refused "
      "while\n"
      "that host answers.");
  const auto request = std::make_shared<api::v1::ResolveRequest>();
  command
      ->add_option_function<std::string>(
          "id", [request](const std::string& id) { request->set_id(id); }, kContainer)
      ->required();
  CLI::Option_group* const how = command->add_option_group("how");
  how->add_flag_function(
      "--runs-here", [request](int64_t) { request->set_resolution(api::v1::RESOLUTION_RUNS_HERE); },
      "it runs here from now on");
  how->add_flag_function(
      "--gone", [request](int64_t) { request->set_resolution(api::v1::RESOLUTION_GONE); },
      "it is removed from here");
  how->require_option(1);
  command->add_option_function<std::string>(
      "--peer", [request](const std::string& peer) { request->set_peer(peer); },
      "the host that never comes back, as `godwit inspect` calls it, as confirmation");
  command->callback(
      [request, &action] { action = [request](Client& client) { return resolve(client, *request); }; });
}

void declare_doctor(CLI::App& app, Action& action) {
  CLI::App* const command = add_command(
      app, "doctor", "what this kernel and host can do, and how to get what is missing; 1 if it is required",
      "  godwit doctor\n  godwit doctor --json");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "one JSON object");
  command->callback([json, &action] { action = [json](Client& client) { return doctor(client, *json); }; });
}

void declare_commands(CLI::App& app, std::string& api, Action& action) {
  app.description("Runs containers on a host and moves them, running, to another one.");
  app.footer(std::string("Examples:\n  export GODWIT_API=unix:/run/godwit.sock\n"
                         "  godwit run /srv/bundles/redis --id db1 --ip 10.7.0.5/24\n"
                         "  godwit migrate db1 --to 10.0.0.2:7100\n\n") +
             kExitStatus);
  app.add_option("--api", api, "unix:PATH of the agent's socket")->envname("GODWIT_API");
  app.require_subcommand(1);
  declare_run(app, action);
  declare_list(app, action);
  declare_stop(app, action);
  declare_remove(app, action);
  declare_logs(app, action);
  declare_exec(app, action);
  declare_migrate(app, action);
  declare_check(app, action);
  declare_migrations(app, action);
  declare_inspect(app, action);
  declare_resolve(app, action);
  declare_doctor(app, action);
}

int run_main(int argc, char** argv) {
  CLI::App app;
  std::string api;
  Action action;
  declare_commands(app, api, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    print_error(std::string(error.what()) + " (see godwit --help)");
    return kUsage;
  }
  if (api.empty()) {
    print_error("no agent is named: give --api unix:PATH, or set GODWIT_API");
    return kUsage;
  }
  if (!api.starts_with("unix:")) {
    print_error("accept --api " + api + ": it must be unix:PATH");
    return kUsage;
  }
  Client client(api);
  return action(client);
}

}  // namespace
}  // namespace godwit::tools

int main(int argc, char** argv) try {
  // `godwit logs | head` ends by a failed write, not by a signal.
  if (std::signal(SIGPIPE, SIG_IGN) == SIG_ERR) return godwit::tools::kFailed;
  return godwit::tools::run_main(argc, argv);
} catch (...) {
  // Libraries throw when memory is out.
  std::fputs("godwit: an unforeseen failure of a library; see ps for what was done\n", stderr);
  return godwit::tools::kUnknown;
}
