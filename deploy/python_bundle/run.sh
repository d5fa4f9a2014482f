#!/bin/sh
# Starts this folder's Python: it brings its own loader and libraries, so any 64-bit ARM Linux kernel will do, Android's too.
# Works wherever the folder lies. AARCH64_EMULATOR is for machines of another kind: what runs such programs there.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
unset LD_LIBRARY_PATH LD_PRELOAD
export PYTHONHOME="$here/python" PYTHONPATH="$here/site" PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 LC_ALL=C.UTF-8
exec ${AARCH64_EMULATOR:-} "$here/lib/ld-linux-aarch64.so.1" --library-path "$here/lib" "$here/python/bin/python" "$@"
