#!/bin/sh
# Builds the compiled modules with AddressSanitizer into .fuzz/asan and plays the conformance suite on them.
#     sh tests/conformance/asan.sh PYTHON
# A read or write out of bounds, or of what was freed, ends the process that did it, and with it the run.
set -eu
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/.fuzz/asan
library=$(${CC:-gcc} -print-file-name=libasan.so)
if [ ! -e "$library" ]; then
    echo "AddressSanitizer's library is not installed (Debian: libasan8, with gcc)" >&2
    exit 1
fi
echo "compiling with AddressSanitizer into $build"
rm -rf "$build" && mkdir -p "$build/src"
cd "$root"
git ls-files -z gateway backends setup.py pyproject.toml README.md LICENSE MANIFEST.in |
    xargs -0 cp --parents -t "$build/src"
CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g -O1" LDFLAGS="-fsanitize=address" HEADGATE_NATIVE=1 \
    "$python" -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir "$build" "$build/src"
"$python" -m pip install --disable-pip-version-check --quiet --no-deps --target "$build/lib" "$build"/headgate-*.whl
find "$build/lib" -name '*.so' | grep -q . || { echo "nothing was compiled" >&2; exit 1; }
export LD_PRELOAD="$library" ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc
export PYTHONPATH="$build/lib:$root" PYTHONSAFEPATH=1
exec "$python" -m pytest -q -p no:cacheprovider tests/conformance/test_corpus.py tests/conformance/test_strict_server.py \
    tests/conformance/test_strict_client.py tests/http
