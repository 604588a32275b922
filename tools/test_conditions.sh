#!/bin/sh
# What can differ from machine to machine, under conditions that this machine does not have by itself: other kernels,
# threads, signals, locales, file systems, time zones, users. `--help` lists them.
set -eu
cd "$(dirname "$0")/.."
. tools/environment.sh
environment test -e ".[deepspeed,test,lint]"
exec python tools/conditions.py "$@"
