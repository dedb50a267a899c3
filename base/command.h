// Runs another program without a shell: its input given, its output captured, its time bounded, none of our
// descriptors in it.
//
// Signals: the child starts with default dispositions and an empty mask, in a process group of its own. It is
// waited for by pid; nobody else in this process may take its exit status (waitpid(2) with -1) meanwhile.
//
// Threads: run_command() may be called by any number of threads at once.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace godwit {

struct Command {
  std::vector<std::string> arguments;    // [0] is the program, looked up in PATH
  std::vector<std::string> environment;  // the whole of it, "NAME=VALUE"
  std::vector<int> descriptors;          // become 3, 4, ... of the child; all others are closed
  std::string input;                     // stdin; /dev/null if empty
  // Where stdout and stderr go; below 0: captured.
  int output_fd = -1;
  int timeout_ms = 30'000;  // then its process group is killed
  size_t output_bytes_max = size_t{16} << 20;
  std::string package;  // to install where the program is missing; empty: named as the program
};

struct CommandOutcome {
  int exit_status = 0;  // 128 + N if signal N ended it, as shells count
  std::string output;   // captured stdout; with it stderr, if `merge_output`
  std::string errors;   // captured stderr
};

// An error if it cannot be started, does not end in time (ETIMEDOUT) or says too much (EMSGSIZE). A status
// other than 0 is not an error here.
[[nodiscard]] Result<CommandOutcome> run_command(const Command& command, bool merge_output = false);

}  // namespace godwit
