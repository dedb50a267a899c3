#include "tools/godwit/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "tools/godwit/exit_codes.h"
#include "tools/godwit/terminal.h"

namespace godwit::tools {

namespace {
constexpr int kLargestMessage = 64 << 20;
}

Client::Client(const std::string& api) : api_(api) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kLargestMessage);
  // A proxy of the environment has no business on a local socket.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  stub_ =
      api::v1::Agent::NewStub(grpc::CreateCustomChannel(api, grpc::InsecureChannelCredentials(), arguments));
}

int Client::report(const grpc::Status& status) const {
  if (status.ok()) return kDone;
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      print_error("no agent answers at " + api_ + " (is godwitd running, and are you root?)");
      return kUnreachable;
    case grpc::StatusCode::INVALID_ARGUMENT:
      print_error(status.error_message());
      return kUsage;
    default:
      print_error(status.error_message());
      return kFailed;
  }
}

}  // namespace godwit::tools
