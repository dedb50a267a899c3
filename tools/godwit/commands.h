// What each subcommand does once its options are read. All return the exit status.
#pragma once

#include <string>
#include <vector>

#include "tools/godwit/client.h"

namespace godwit::tools {

struct MigrateOptions {
  api::v1::MigrateRequest request;
  bool json = false;
  bool timeline = false;
};

int run(Client& client, const api::v1::RunRequest& request);
int list(Client& client, bool json);
int stop(Client& client, const api::v1::StopRequest& request);
int remove(Client& client, const std::vector<std::string>& ids, bool force);
int logs(Client& client, const api::v1::LogsRequest& request);
int execute(Client& client, const api::v1::ExecRequest& request);
int migrate(Client& client, const MigrateOptions& options);  // migrate.cc
int check(Client& client, const std::string& id, bool json);
int migrations(Client& client, bool json);                            // sessions.cc
int inspect(Client& client, const std::string& id, bool json);        // sessions.cc
int resolve(Client& client, const api::v1::ResolveRequest& request);  // sessions.cc
int doctor(Client& client, bool json);

}  // namespace godwit::tools
