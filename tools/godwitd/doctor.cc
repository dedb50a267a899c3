#include "tools/godwitd/doctor.h"

#include "engine/host/examine.h"

namespace godwit::tools {

api::v1::DoctorResponse examine_host(const engine::KeeperOptions& options) {
  api::v1::DoctorResponse response;
  response.set_host(options.name);
  for (engine::Finding& found : engine::examine_host(options.cni_plugins, options.bridge)) {
    api::v1::Finding& finding = *response.add_findings();
    finding.set_name(std::move(found.name));
    finding.set_present(found.present);
    finding.set_required(found.required);
    finding.set_value(std::move(found.value));
    finding.set_needed_for(std::move(found.needed_for));
    finding.set_how_to_get(std::move(found.how_to_get));
  }
  return response;
}

}  // namespace godwit::tools
