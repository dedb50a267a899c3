#include "tools/godwit/commands.h"

#include <fmt/format.h>

#include <iostream>

#include "tools/godwit/exit_codes.h"
#include "tools/godwit/render.h"
#include "tools/godwit/terminal.h"

namespace godwit::tools {

int run(Client& client, const api::v1::RunRequest& request) {
  grpc::ClientContext context;
  api::v1::RunResponse response;
  const grpc::Status status = client.agent().Run(&context, request, &response);
  if (status.ok())
    std::cout << fmt::format("{} runs at {} as pid {}\n", response.container().id(),
                             response.container().address(), response.container().pid());
  return client.report(status);
}

int list(Client& client, bool json) {
  grpc::ClientContext context;
  api::v1::ListResponse response;
  const grpc::Status status = client.agent().List(&context, {}, &response);
  if (status.ok()) std::cout << (json ? dump(json_of(response)) + "\n" : table_of(response));
  return client.report(status);
}

int stop(Client& client, const api::v1::StopRequest& request) {
  grpc::ClientContext context;
  api::v1::StopResponse response;
  const grpc::Status status = client.agent().Stop(&context, request, &response);
  if (status.ok() && response.exit().known())
    std::cout << fmt::format("{} has ended with status {}\n", request.id(), response.exit().status());
  else if (status.ok())
    std::cout << fmt::format("{} has ended\n", request.id());
  return client.report(status);
}

int remove(Client& client, const std::vector<std::string>& ids, bool force) {
  int worst = kDone;
  for (const std::string& id : ids) {
    grpc::ClientContext context;
    api::v1::RemoveRequest request;
    request.set_id(id);
    request.set_force(force);
    api::v1::RemoveResponse response;
    worst = std::max(worst, client.report(client.agent().Remove(&context, request, &response)));
  }
  return worst;
}

int logs(Client& client, const api::v1::LogsRequest& request) {
  grpc::ClientContext context;
  const auto reader = client.agent().Logs(&context, request);
  api::v1::LogsChunk chunk;
  while (reader->Read(&chunk)) {
    // A reader that is gone (`| head`) wants no more.
    if (!(std::cout << chunk.data() << std::flush)) {
      context.TryCancel();
      (void)reader->Finish();
      return kDone;
    }
  }
  return client.report(reader->Finish());
}

int execute(Client& client, const api::v1::ExecRequest& request) {
  grpc::ClientContext context;
  api::v1::ExecResponse response;
  const grpc::Status status = client.agent().Exec(&context, request, &response);
  if (!status.ok()) return client.report(status);
  std::cout << response.output() << std::flush;
  return response.exit_status();
}

int check(Client& client, const std::string& id, bool json) {
  grpc::ClientContext context;
  api::v1::CheckRequest request;
  request.set_id(id);
  api::v1::CheckResponse response;
  const grpc::Status status = client.agent().Check(&context, request, &response);
  if (!status.ok()) return client.report(status);
  if (json) {
    std::cout << dump(json_of(response)) << "\n";
  } else if (response.refusals().empty()) {
    std::cout << id << " can be moved\n";
  } else {
    std::cout << id << " cannot be moved:\n";
    for (const engine::model::Refused& refused : response.refusals())
      std::cout << "  " << line_of(refused) << "\n";
  }
  return response.refusals().empty() ? kDone : kRefused;
}

int doctor(Client& client, bool json) {
  grpc::ClientContext context;
  api::v1::DoctorResponse response;
  const grpc::Status status = client.agent().Doctor(&context, {}, &response);
  if (!status.ok()) return client.report(status);
  std::cout << (json ? dump(json_of(response)) + "\n" : table_of(response));
  for (const api::v1::Finding& finding : response.findings())
    if (finding.required() && !finding.present()) return kFailed;
  return kDone;
}

}  // namespace godwit::tools
