// The verbs about migrations that are known here: migrations, inspect, resolve.
#include <iostream>

#include "tools/godwit/commands.h"
#include "tools/godwit/exit_codes.h"
#include "tools/godwit/render.h"

namespace godwit::tools {

int migrations(Client& client, bool json) {
  grpc::ClientContext context;
  api::v1::ListMigrationsResponse response;
  const grpc::Status status = client.agent().ListMigrations(&context, {}, &response);
  if (status.ok()) std::cout << (json ? dump(json_of(response)) + "\n" : table_of(response));
  return client.report(status);
}

int inspect(Client& client, const std::string& id, bool json) {
  grpc::ClientContext context;
  api::v1::InspectRequest request;
  request.set_id(id);
  api::v1::InspectResponse response;
  const grpc::Status status = client.agent().Inspect(&context, request, &response);
  if (status.ok()) std::cout << (json ? dump(json_of(response)) + "\n" : text_of(response));
  return client.report(status);
}

int resolve(Client& client, const api::v1::ResolveRequest& request) {
  grpc::ClientContext context;
  api::v1::ResolveResponse response;
  const grpc::Status status = client.agent().Resolve(&context, request, &response);
  if (!status.ok()) return client.report(status);
  (response.done() ? std::cout : std::cerr) << text_of(request, response);
  return response.done() ? kDone : kFailed;
}

}  // namespace godwit::tools
