// A directory that is being read; closes it when it goes.
#pragma once

#include <dirent.h>

#include <memory>

namespace godwit {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

}  // namespace godwit
