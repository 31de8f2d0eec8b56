#!/usr/bin/env bash
# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# Installs the Debian packages that tests and demo need and that are not there; with "cluster" as its argument, those that whole machines
# need too. With nothing missing it needs neither root nor network.
set -euo pipefail

command -v go >/dev/null || {
	echo "deps: there is no go in PATH; Railyard needs Go 1.26" >&2
	exit 1
}
# What is needed, and the package that brings it.
packages=()
need() { [ -e "$1" ] || command -v "$1" >/dev/null || packages+=("$2"); }
need ip iproute2
need unshare util-linux
need flock util-linux
need mount mount
need /etc/ssl/certs/ca-certificates.crt ca-certificates # Go loads modules over TLS
if [ "${1:-}" = cluster ]; then
	need runc runc # is C in part, so it is not built as the tools are
fi
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "deps: missing packages: ${packages[*]}. Run this as root, or install them first." >&2
	exit 1
fi
echo "deps: installing ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -y -q -o DPkg::Lock::Timeout=300)
# A fresh image has no package lists, an older one has stale ones.
"${apt[@]}" update >&2
"${apt[@]}" install --no-install-recommends "${packages[@]}" >&2 </dev/null
