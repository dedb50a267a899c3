#include "tools/godwitd/service.h"

#include "tools/godwitd/doctor.h"

namespace godwit::tools {

using engine::DenialKind;
using engine::ExitStatus;
using engine::Stage;
using engine::StoredContainer;
using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;

namespace {

api::v1::ContainerState state_of(Stage stage) {
  switch (stage) {
    case Stage::kStarting:
      return api::v1::CONTAINER_STATE_STARTING;
    case Stage::kRunning:
      return api::v1::CONTAINER_STATE_RUNNING;
    case Stage::kMigrating:
      return api::v1::CONTAINER_STATE_MIGRATING;
    case Stage::kArriving:
      return api::v1::CONTAINER_STATE_ARRIVING;
    case Stage::kStopping:
      return api::v1::CONTAINER_STATE_STOPPING;
    case Stage::kStopped:
      return api::v1::CONTAINER_STATE_STOPPED;
    case Stage::kFailed:
      return api::v1::CONTAINER_STATE_FAILED;
    case Stage::kRemoving:
      return api::v1::CONTAINER_STATE_REMOVING;
    case Stage::kInvalid:
      break;
  }
  return api::v1::CONTAINER_STATE_UNSPECIFIED;
}

void fill_exit(const ExitStatus& exit, api::v1::Exit& message) {
  message.set_known(exit.known);
  message.set_status(exit.status);
  message.set_signal(static_cast<uint32_t>(exit.signal));
  message.set_at_unix_s(exit.at_unix_s);
}

void fill_container(const StoredContainer& container, api::v1::Container& message) {
  const engine::model::ContainerRecord& record = container.record;
  message.set_id(record.id());
  message.set_state(state_of(container.stage));
  message.set_address(record.address());
  message.set_mac(record.mac());
  message.set_gateway(record.gateway());
  message.set_hostname(record.hostname());
  message.set_environment(record.environment());
  message.set_anti_affinity_group(record.anti_affinity_group());
  message.set_memory_limit_bytes(record.memory_limit_bytes());
  message.set_cpu_millis(record.cpu_millis());
  message.set_pid(container.pid);
  message.set_bundle(record.bundle());
  message.set_created_unix_s(record.created_unix_s());
  message.set_error(container.error);
  if (container.exit) fill_exit(*container.exit, *message.mutable_exit());
}

void fill_migration(const engine::SessionView& view, api::v1::Migration& message) {
  message.set_unreadable(view.unreadable);
  if (!view.unreadable.empty()) return;
  const engine::SessionRecord& record = view.record;
  message.set_session(record.session);
  message.set_container(record.container);
  message.set_uid(record.uid);
  message.set_incarnation(record.incarnation);
  message.set_side(engine::to_string(record.side));
  message.set_peer(record.peer_name);
  for (const std::string& address : record.peer_addresses) message.add_peer_addresses(address);
  message.set_state(engine::to_string(record.state));
  message.set_meaning(view.meaning);
  message.set_begun_unix_s(record.begun_unix_s);
  message.set_changed_unix_s(record.changed_unix_s);
  message.set_worker_lives(view.worker_lives);
  message.set_acknowledged(record.acknowledged);
  message.set_waiting(engine::waits_for_other_side(record.state));
}

engine::Resolution resolution_of(api::v1::Resolution resolution) {
  switch (resolution) {
    case api::v1::RESOLUTION_RUNS_HERE:
      return engine::Resolution::kRunsHere;
    case api::v1::RESOLUTION_GONE:
      return engine::Resolution::kGone;
    default:
      return engine::Resolution::kInvalid;
  }
}

StatusCode code_of(DenialKind kind) {
  switch (kind) {
    case DenialKind::kInvalidArgument:
      return StatusCode::INVALID_ARGUMENT;
    case DenialKind::kNotFound:
      return StatusCode::NOT_FOUND;
    case DenialKind::kAlreadyExists:
      return StatusCode::ALREADY_EXISTS;
    case DenialKind::kFailedPrecondition:
      return StatusCode::FAILED_PRECONDITION;
    case DenialKind::kInternal:
      return StatusCode::INTERNAL;
    case DenialKind::kInvalid:
      break;
  }
  return StatusCode::UNKNOWN;
}

template <typename T>
Status status_of(const engine::Reply<T>& reply) {
  return reply ? Status::OK : Status(code_of(reply.error().kind), reply.error().to_string());
}

engine::model::ContainerRecord record_of(const api::v1::RunRequest& request) {
  engine::model::ContainerRecord record;
  record.set_id(request.id());
  record.set_bundle(request.bundle());
  record.set_hostname(request.hostname());
  record.set_address(request.address());
  record.set_gateway(request.gateway());
  record.set_environment(request.environment());
  record.set_anti_affinity_group(request.anti_affinity_group());
  record.set_memory_limit_bytes(request.memory_limit_bytes());
  record.set_cpu_millis(request.cpu_millis());
  return record;
}

}  // namespace

Status AgentService::Run(ServerContext*, const api::v1::RunRequest* request, api::v1::RunResponse* response) {
  const auto container = keeper_.run(record_of(*request));
  if (container) fill_container(*container, *response->mutable_container());
  return status_of(container);
}

Status AgentService::List(ServerContext*, const api::v1::ListRequest*, api::v1::ListResponse* response) {
  response->set_host(keeper_.options().name);
  for (const StoredContainer& container : keeper_.list()) {
    api::v1::Container& message = *response->add_containers();
    fill_container(container, message);
    message.set_waits_for(keeper_.waits_for(container));
  }
  return Status::OK;
}

Status AgentService::Stop(ServerContext*, const api::v1::StopRequest* request,
                          api::v1::StopResponse* response) {
  const auto exit = keeper_.stop(request->id(), request->grace_ms());
  if (exit) fill_exit(*exit, *response->mutable_exit());
  return status_of(exit);
}

Status AgentService::Remove(ServerContext*, const api::v1::RemoveRequest* request, api::v1::RemoveResponse*) {
  return status_of(keeper_.remove(request->id(), request->force()));
}

Status AgentService::Logs(ServerContext* context, const api::v1::LogsRequest* request,
                          grpc::ServerWriter<api::v1::LogsChunk>* writer) {
  api::v1::LogsChunk chunk;
  return status_of(keeper_.logs(
      request->id(), request->follow(),
      [&](const std::string& data) {
        chunk.set_data(data);
        return writer->Write(chunk);
      },
      [&] { return context->IsCancelled(); }));
}

Status AgentService::Exec(ServerContext*, const api::v1::ExecRequest* request,
                          api::v1::ExecResponse* response) {
  auto outcome = keeper_.execute(request->id(), {request->command().begin(), request->command().end()});
  if (outcome) {
    response->set_exit_status(outcome->exit_status);
    response->set_output(std::move(outcome->output));
  }
  return status_of(outcome);
}

Status AgentService::Migrate(ServerContext* context, const api::v1::MigrateRequest* request,
                             grpc::ServerWriter<engine::model::MigrationEvent>* writer) {
  bool left = false;
  return status_of(keeper_.migrate(
      request->id(), request->target(), request->goals(),
      [&](const engine::model::MigrationEvent& event) {
        if (!left) left = !writer->Write(event);
      },
      [&] { return left || context->IsCancelled(); }));
}

Status AgentService::Check(ServerContext*, const api::v1::CheckRequest* request,
                           api::v1::CheckResponse* response) {
  auto outcome = keeper_.check(request->id());
  if (outcome) *response->mutable_refusals() = std::move(*outcome->mutable_refusals());
  return status_of(outcome);
}

Status AgentService::ListMigrations(ServerContext*, const api::v1::ListMigrationsRequest*,
                                    api::v1::ListMigrationsResponse* response) {
  response->set_host(keeper_.options().name);
  const auto migrations = keeper_.migrations();
  if (migrations)
    for (const engine::SessionView& view : *migrations) fill_migration(view, *response->add_migrations());
  return status_of(migrations);
}

Status AgentService::Inspect(ServerContext*, const api::v1::InspectRequest* request,
                             api::v1::InspectResponse* response) {
  const auto view = keeper_.inspect(request->id());
  if (!view) return status_of(view);
  response->set_host(keeper_.options().name);
  if (view->container) {
    fill_container(*view->container, *response->mutable_container());
    response->mutable_container()->set_waits_for(keeper_.waits_for(*view->container));
    response->set_uid(view->container->record.uid());
    response->set_incarnation(view->container->record.incarnation());
    response->set_processes(engine::to_string(view->copy));
  }
  for (const engine::SessionView& session : view->sessions)
    fill_migration(session, *response->add_migrations());
  return Status::OK;
}

Status AgentService::Resolve(ServerContext*, const api::v1::ResolveRequest* request,
                             api::v1::ResolveResponse* response) {
  const auto view = keeper_.resolve(request->id(), resolution_of(request->resolution()), request->peer());
  if (view) {
    response->set_done(view->done);
    response->set_peer(view->peer);
    response->set_known(view->known);
    response->set_plan(view->plan);
    response->set_risk(view->risk);
  }
  return status_of(view);
}

Status AgentService::Doctor(ServerContext*, const api::v1::DoctorRequest*,
                            api::v1::DoctorResponse* response) {
  *response = examine_host(keeper_.options());
  return Status::OK;
}

}  // namespace godwit::tools
