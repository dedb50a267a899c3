#!/bin/sh
# Four processes joined by pipes. Each line of the log is a number, its square and a running sum, so that a line that was
# lost, doubled or swapped shows itself.
i=0
while :; do
  i=$((i + 1))
  echo "$i"
  if [ $((i % 20)) -eq 0 ]; then sleep 0.01; fi
done |
  awk '{ sum += $1; print $1, $1 * $1, sum; fflush() }' |
  while read -r line; do echo "$line ok"; done |
  cat >>/data/pipeline.log
