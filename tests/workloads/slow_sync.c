// For LD_PRELOAD: a disk that takes its time, and then cannot. The first fsync(2) or fdatasync(2) of any
// program after the file $SLOW_SYNC_ORDER was made takes SLOW_SYNC_SECONDS and fails with EIO; the file is
// gone from its beginning on. What was written is in the page cache meanwhile, where everybody can read it,
// and never reaches the disk for sure.
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int carry_out_order(void) {
  const char* order = getenv("SLOW_SYNC_ORDER");
  const char* seconds = getenv("SLOW_SYNC_SECONDS");
  if (order == NULL || seconds == NULL || unlink(order) != 0) return 0;
  unsigned left = (unsigned)atoi(seconds);
  while (left > 0) left = sleep(left);
  errno = EIO;
  return 1;
}

int fsync(int fd) {
  return carry_out_order() ? -1 : (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd) {
  return carry_out_order() ? -1 : (int)syscall(SYS_fdatasync, fd);
}
