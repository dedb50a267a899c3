// A connection to one agent, and what its errors mean to the shell.
#pragma once

#include <memory>
#include <string>

#include "tools/api/godwit.grpc.pb.h"

namespace godwit::tools {

class Client {
 public:
  // `api`: "unix:PATH". Connects with the first call.
  explicit Client(const std::string& api);
  [[nodiscard]] api::v1::Agent::Stub& agent() { return *stub_; }
  // Prints the error, if `status` is one, and returns the exit status that stands for it.
  [[nodiscard]] int report(const grpc::Status& status) const;

 private:
  std::string api_;
  std::unique_ptr<api::v1::Agent::Stub> stub_;
};

}  // namespace godwit::tools
