// The gRPC face of the agent (tools/api/godwit.proto): translates, and nothing else.
#pragma once

#include "engine/host/keeper.h"
#include "tools/api/godwit.grpc.pb.h"

namespace godwit::tools {

class AgentService final : public api::v1::Agent::Service {
 public:
  explicit AgentService(engine::Keeper& keeper) : keeper_(keeper) {}

  grpc::Status Run(grpc::ServerContext* context, const api::v1::RunRequest* request,
                   api::v1::RunResponse* response) override;
  grpc::Status List(grpc::ServerContext* context, const api::v1::ListRequest* request,
                    api::v1::ListResponse* response) override;
  grpc::Status Stop(grpc::ServerContext* context, const api::v1::StopRequest* request,
                    api::v1::StopResponse* response) override;
  grpc::Status Remove(grpc::ServerContext* context, const api::v1::RemoveRequest* request,
                      api::v1::RemoveResponse* response) override;
  grpc::Status Logs(grpc::ServerContext* context, const api::v1::LogsRequest* request,
                    grpc::ServerWriter<api::v1::LogsChunk>* writer) override;
  grpc::Status Exec(grpc::ServerContext* context, const api::v1::ExecRequest* request,
                    api::v1::ExecResponse* response) override;
  grpc::Status Migrate(grpc::ServerContext* context, const api::v1::MigrateRequest* request,
                       grpc::ServerWriter<engine::model::MigrationEvent>* writer) override;
  grpc::Status Check(grpc::ServerContext* context, const api::v1::CheckRequest* request,
                     api::v1::CheckResponse* response) override;
  grpc::Status ListMigrations(grpc::ServerContext* context, const api::v1::ListMigrationsRequest* request,
                              api::v1::ListMigrationsResponse* response) override;
  grpc::Status Inspect(grpc::ServerContext* context, const api::v1::InspectRequest* request,
                       api::v1::InspectResponse* response) override;
  grpc::Status Resolve(grpc::ServerContext* context, const api::v1::ResolveRequest* request,
                       api::v1::ResolveResponse* response) override;
  grpc::Status Doctor(grpc::ServerContext* context, const api::v1::DoctorRequest* request,
                      api::v1::DoctorResponse* response) override;

 private:
  engine::Keeper& keeper_;
};

}  // namespace godwit::tools
