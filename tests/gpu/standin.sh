#!/bin/sh
# Makes DIR/libcuda.so.1 from the toolkit's stub: every function is there, those
# that load code say it went well, all others that there is no driver.
#
# This file is part of libwan; see the licence in wan/wan.h.
#
#     standin.sh STUB DIR [CC]
#
# For plans alone: nothing that is loaded can run.

set -e
[ -f "$1" ] && [ -n "$2" ] || { echo "usage: standin.sh STUB DIR [CC]" >&2; exit 2; }
mkdir -p "$2"
nm -D --defined-only "$1" | awk '
    $2 != "T" { next }
    { sub(/@.*/, "", $3) }
    seen[$3]++ { next }
    # What plans ask for: code is loaded, found and prepared.
    $3 ~ /^(cuLibrary|cuModule|cuKernel|cuFunc)/ || $3 == "cuInit" {
        fine = $3 ~ /^cuInit$/ ? 34 : 0
        print "int " $3 "(void **p) { (void)p; " (fine ? "" : handle($3)) "return " fine "; }"
        next
    }
    { print "int " $3 "(void) { return 34; }" }
    function handle(f)
    {
        return f ~ /^(cuLibraryLoadData|cuLibraryGetKernel|cuLibraryGetModule|cuKernelGetFunction|cuModuleLoad|cuModuleGetFunction)/ ? "*p = (void *)p; " : ""
    }' > "$2/cuda.c"
"${3:-cc}" -w -shared -fPIC -O1 -Wl,-soname,libcuda.so.1 -o "$2/libcuda.so.1" "$2/cuda.c"
