// Runs another program without a shell: its output captured, its time bounded, none of our descriptors in it.
//
// Signals: the child starts with default dispositions and an empty mask, in a process group of its own. It is
// reaped here, by pid. A process that also reaps orphans (a subreaper) must not take it away: look first
// (waitid(2) with P_ALL and WNOWAIT) and leave alone whatever is_command() knows.
//
// Threads: run_command() may be called by any number of threads at once.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"

namespace godwit::runtime {

struct Command {
  std::vector<std::string> arguments;    // [0] is the program, looked up in PATH
  std::vector<std::string> environment;  // the whole of it, "NAME=VALUE"
  std::vector<int> descriptors;          // become 3, 4, ... of the child; all others are closed
  // Where stdout and stderr go; below 0: captured. stdin is /dev/null.
  int output_fd = -1;
  int timeout_ms = 30'000;  // then its process group is killed
  size_t output_bytes_max = size_t{16} << 20;
};

struct CommandOutcome {
  int exit_status = 0;  // 128 + N if signal N ended it, as shells count
  std::string output;   // captured stdout; with it stderr, if `merge_output`
  std::string errors;   // captured stderr
};

// An error if it cannot be started, does not end in time (ETIMEDOUT) or says too much (EMSGSIZE). A status
// other than 0 is not an error here.
[[nodiscard]] Result<CommandOutcome> run_command(const Command& command, bool merge_output = false);

// Whether `pid` is a child of run_command() that it has yet to reap.
[[nodiscard]] bool is_command(pid_t pid);

// The last non-empty line of `text`, fit for a one-line message: no control characters, bounded length. Where
// the line is a JSON log record of runc's, its message.
[[nodiscard]] std::string last_words(const std::string& text);

}  // namespace godwit::runtime
