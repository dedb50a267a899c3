#include "engine/session/preflight_check.h"

#include <unistd.h>

#include "engine/paths.h"
#include "runtime/container/container.h"
#include "runtime/container/freezer.h"
#include "runtime/network/interfaces.h"
#include "runtime/process/capture.h"

namespace godwit::engine {
namespace {

Result<void> refuse_interfaces(const runtime::Attachment& attachment,
                               std::vector<runtime::Refusal>& refusals) {
  GODWIT_ASSIGN(const auto foreign, runtime::foreign_interfaces(attachment));
  for (const std::string& name : foreign)
    refusals.push_back({.pid = 1,
                        .object = "network interface " + name,
                        .reason = "only lo and " + attachment.container_interface + " are moved; delete it"});
  return {};
}

Result<std::vector<runtime::Refusal>> find_refusals(const model::CheckOrder& order) {
  const std::string& root = order.agent().root();
  runtime::Runc runc(runc_root(root), bundles_root(root), order.agent().name());
  GODWIT_ASSIGN(const pid_t init_pid, runc.init_pid(order.container().id()));
  GODWIT_ASSIGN(runtime::Freezer freezer, runtime::Freezer::open(init_pid));
  GODWIT_ASSIGN(auto capture,
                runtime::Capture::open({.init_pid = init_pid,
                                        .log_path = container_paths(root, order.container().id()).log,
                                        .freeze_cgroup = [&] { return freezer.freeze(); },
                                        .thaw_cgroup = [&] { return freezer.thaw(); },
                                        .list_cgroup = [&] { return freezer.processes(); }}));
  GODWIT_ASSIGN(const runtime::Attachment attachment,
                runtime::Network(network_root(root)).find(order.container().id()));
  return lasting_refusals(*capture, attachment);
}

}  // namespace

Result<std::vector<runtime::Refusal>> lasting_refusals(runtime::Capture& capture,
                                                       const runtime::Attachment& attachment) {
  constexpr int kLooks = 6;
  constexpr unsigned kPauseUs = 20'000;
  for (int look = 1;; ++look) {
    auto refusals = capture.preflight();
    if (refusals) GODWIT_TRY(refuse_interfaces(attachment, *refusals));
    if (!refusals || refusals->empty() || look == kLooks) return refusals;
    ::usleep(kPauseUs);
  }
}

model::CheckOutcome check_container(const model::CheckOrder& order) {
  model::CheckOutcome outcome;
  auto refusals = find_refusals(order);
  if (!refusals) {
    outcome.set_error(refusals.error().to_string());
    return outcome;
  }
  for (const runtime::Refusal& refusal : *refusals) {
    model::Refused& refused = *outcome.add_refusals();
    refused.set_pid(static_cast<uint32_t>(refusal.pid));
    refused.set_object(refusal.object);
    refused.set_reason(refusal.reason);
  }
  return outcome;
}

}  // namespace godwit::engine
