// Socket options that travel, per kind of socket: read at the source, and the only ones the target accepts.
#pragma once

#include <google/protobuf/repeated_field.h>

#include <span>

#include "base/result.h"
#include "runtime/process/snapshot.pb.h"

namespace godwit::runtime {

using SocketOptions = google::protobuf::RepeatedPtrField<model::SocketOption>;

struct OptionName {
  int level;
  int name;
};

[[nodiscard]] std::span<const OptionName> unix_options();
[[nodiscard]] std::span<const OptionName> tcp_options(uint32_t family);
[[nodiscard]] std::span<const OptionName> udp_options(uint32_t family);

// Options the kernel does not know are left out.
void read_options(int socket, std::span<const OptionName> names, SocketOptions& options);
// Pure check of options that came from another host: known names, short values.
[[nodiscard]] Result<void> validate_options(const SocketOptions& options,
                                            std::span<const OptionName> allowed);
// Sets one option if it is there; and all but those of `except`.
[[nodiscard]] Result<void> apply_option(int socket, const SocketOptions& options, OptionName name);
[[nodiscard]] Result<void> apply_options(int socket, const SocketOptions& options,
                                         std::span<const OptionName> except = {});

}  // namespace godwit::runtime
