#!/usr/bin/env bash
# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# Builds the programs that the tests, the demo and the checks need, from the pinned modules beside this file.
#
#   tools.sh dir              prints the folder that holds them, and does nothing else
#   tools.sh build [NAME...]  builds what is missing of the named ones, or of all: kube multus cni controller-gen golangci-lint
#
# The folder lies outside of the work tree and its name is a hash of everything that decides what the programs are: a second
# clone finds them built, and a new version gets a folder of its own. $RAILYARD_TOOLS names another folder.
# A program appears under its name only when it is whole, so a build that was killed goes on where Go's build cache stopped.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
all=(kube multus cni controller-gen golangci-lint)

# Static, reproducible, and not swayed by the caller's settings. -trimpath is part of the build cache's key: the same everywhere.
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off
unset GOOS GOARCH

die() { echo "tools: $*" >&2; exit 1; }

tools_dir() {
	if [ -n "${RAILYARD_TOOLS:-}" ]; then
		realpath -m -- "$RAILYARD_TOOLS"
		return
	fi
	local version key
	version=$(cd "$here/kube" && go env GOVERSION GOOS GOARCH) || die "no working Go; Railyard needs Go 1.26 in PATH"
	key=$({
		echo "$version"
		cd "$here"
		find kube cni gen lint tools.sh -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
	} | sha256sum)
	echo "${XDG_CACHE_HOME:-${HOME:?}/.cache}/railyard/tools/${key:0:16}"
}

# module_version MODULE FOLDER: the pinned version, so that go.mod is the only place that says it.
module_version() { (cd "$here/$2" && go list -m -f '{{.Version}}' "$1"); }

# build_NAME OUT makes the program OUT (a folder for cni). -v names each package as it is compiled: the progress lines count them.
build_kube() {
	local x=k8s.io/component-base/version v
	v=$(module_version k8s.io/kubernetes kube)
	local n=${v#v}
	cd "$here/kube"
	go build -v -trimpath -ldflags="-s -w -X $x.gitVersion=$v -X $x.gitMajor=${n%%.*} -X $x.gitMinor=$(cut -d. -f2 <<<"$n") -X $x.gitTreeState=clean -X $x.gitCommit=0000000000000000000000000000000000000000 -X $x.buildDate=2026-01-01T00:00:00Z" -o "$1" ./cmd/kube
}
build_multus() {
	cd "$here/cni"
	go build -v -trimpath -ldflags='-s -w' -o "$1" gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus
}
build_cni() {
	cd "$here/cni"
	mkdir "$1"
	# The list is go.mod's.
	go list tool | grep '^github.com/containernetworking/plugins/' | xargs go build -v -trimpath -ldflags='-s -w' -o "$1/"
}
build_controller-gen() {
	cd "$here/gen"
	go build -v -trimpath -ldflags='-s -w' -o "$1" sigs.k8s.io/controller-tools/cmd/controller-gen
}
build_golangci-lint() {
	local v
	v=$(module_version github.com/golangci/golangci-lint/v2 lint)
	cd "$here/lint"
	go build -v -trimpath -ldflags="-s -w -X main.version=${v#v}" -o "$1" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
}

# make_one NAME: builds into the scratch folder and moves it into place. A folder and a file are both one rename.
make_one() {
	local name=$1
	mkdir -p "$tmp/$name"
	"build_$name" "$tmp/$name/$name" >"$tmp/$name.log" 2>&1 </dev/null || return 1
	mv -T "$tmp/$name/$name" "$dir/$name"
	[ "$name" != kube ] || ln -sfn kube "$dir/kubectl" # kube is what it is called
}

declare -A pids=() # the running builds, by name
stop_builds() {
	local pid
	for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
	wait
	rm -rf "$tmp"
}

took() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

build() {
	local name missing=()
	for name in "$@"; do
		[[ " ${all[*]} " == *" $name "* ]] || die "no tool is called $name; there are: ${all[*]}"
		[ -e "$dir/$name" ] || missing+=("$name")
	done
	[ ${#missing[@]} -gt 0 ] || return 0

	mkdir -p "$dir"
	exec 9>"$dir/.lock"
	if ! flock -n 9; then
		echo "tools: another build fills $dir; waiting for it" >&2
		flock 9
	fi
	local todo=()
	for name in "${missing[@]}"; do [ -e "$dir/$name" ] || todo+=("$name"); done
	[ ${#todo[@]} -gt 0 ] || return 0
	rm -rf "$dir"/.tmp.* # of builds that were killed: whoever holds the lock is alone
	tmp=$(mktemp -d "$dir/.tmp.XXXXXX")
	trap stop_builds EXIT
	trap 'exit 130' INT TERM HUP
	echo "tools: building ${todo[*]} into $dir" >&2

	# Go uses every core for compiling; a second build beside it fills the time in which the first one links, on one core.
	local -A started=()
	local -i next=0 done=0 beat=$SECONDS most=2
	[ "$(nproc)" -le 4 ] || most=${#todo[@]}
	while [ $done -lt ${#todo[@]} ]; do
		while [ $next -lt ${#todo[@]} ] && [ ${#pids[@]} -lt $most ]; do
			name=${todo[next]}
			set -m # a process group of its own, so that stop_builds reaches the compilers too
			make_one "$name" &
			set +m
			pids[$name]=$! started[$name]=$SECONDS next+=1
		done
		sleep 0.2
		for name in "${!pids[@]}"; do
			kill -0 "${pids[$name]}" 2>/dev/null && continue
			if ! wait "${pids[$name]}"; then
				echo "tools: building $name failed:" >&2
				grep -v '^go: downloading' "$tmp/$name.log" | tail -n 30 >&2 || true
				exit 1
			fi
			done+=1
			echo "[$done/${#todo[@]}] $name: built in $(took $((SECONDS - started[$name])))" >&2
			unset "pids[$name]"
		done
		if [ $((SECONDS - beat)) -ge 15 ]; then
			beat=$SECONDS
			for name in "${!pids[@]}"; do
				echo "[$done/${#todo[@]}] $name … $(took $((SECONDS - started[$name]))) so far, $(grep -vc '^go: ' "$tmp/$name.log" || true) packages compiled" >&2
			done
		fi
	done
}

case ${1:-} in
dir) tools_dir ;;
build)
	shift
	dir=$(tools_dir)
	[ $# -gt 0 ] || set -- "${all[@]}"
	build "$@"
	;;
*) die "usage: tools.sh dir | build [NAME...]" ;;
esac
