#!/usr/bin/env bash
# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# Builds the programs that the tests, the demo and the checks need, from the pinned modules beside this file.
#
#   tools.sh dir              prints the folder that holds them, and does nothing else
#   tools.sh build [NAME...]  builds what is missing of the named ones, or of all: kube multus cni controller-gen golangci-lint
#                             and, for whole machines, kubenode containerd multus-image; for the chart, helm
#
# The folder lies outside of the work tree and its name is a hash of everything that decides what the programs are: a second
# clone finds them built, and a new version gets a folder of its own. $RAILYARD_TOOLS names another folder. What decides about one
# program is kept beside it, under .keys: a new folder takes from an older one what would come out the same.
# A program appears under its name only when it is whole, so a build that was killed goes on where Go's build cache stopped.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
all=(kube multus cni controller-gen golangci-lint kubenode containerd multus-image helm)
# The sources of each, beside its build function below.
declare -A sources=(
	[kube]="kube/go.mod kube/go.sum kube/cmd/kube"
	[kubenode]="kube/go.mod kube/go.sum kube/cmd/kubenode"
	[multus]=cni [cni]=cni [multus-image]=cni
	[containerd]=runtime
	[controller-gen]=gen
	[golangci-lint]=lint
	[helm]=helm
)

# Static, reproducible, and not swayed by the caller's settings. -trimpath is part of the build cache's key: the same everywhere.
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off
unset GOOS GOARCH

die() { echo "tools: $*" >&2; exit 1; }

tools_dir() {
	if [ -n "${RAILYARD_TOOLS:-}" ]; then
		realpath -m -- "$RAILYARD_TOOLS"
		return
	fi
	local key
	key=$(hash_of kube cni gen lint runtime helm tools.sh)
	echo "$(tools_cache)/${key:0:16}"
}

tools_cache() { echo "${XDG_CACHE_HOME:-${HOME:?}/.cache}/railyard/tools"; }

# hash_of FILE|FOLDER...: of these, of Go and of what comes on stdin.
hash_of() {
	local version
	version=$(cd "$here/kube" && go env GOVERSION GOOS GOARCH) || die "no working Go; Railyard needs Go 1.26 in PATH"
	{
		echo "$version"
		cd "$here"
		find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
	} | sha256sum | cut -d' ' -f1
}

# key_of NAME: everything that decides what comes out.
key_of() {
	local of
	read -ra of <<<"${sources[$1]}"
	echo "$(hash_of "${of[@]}") $(declare -f "build_$1" | sha256sum | cut -d' ' -f1)"
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
build_kubenode() {
	local x=k8s.io/component-base/version v
	v=$(module_version k8s.io/kubernetes kube)
	local n=${v#v}
	cd "$here/kube"
	go build -v -trimpath -ldflags="-s -w -X $x.gitVersion=$v -X $x.gitMajor=${n%%.*} -X $x.gitMinor=$(cut -d. -f2 <<<"$n") -X $x.gitTreeState=clean -X $x.gitCommit=0000000000000000000000000000000000000000 -X $x.buildDate=2026-01-01T00:00:00Z" -o "$1" ./cmd/kubenode
}
build_containerd() {
	local c=github.com/containerd/containerd/v2 v
	v=$(module_version $c runtime)
	cd "$here/runtime"
	mkdir "$1"
	# Without the snapshotters that need devices or libraries of their own.
	go build -v -trimpath -tags 'no_btrfs no_devmapper no_zfs no_tracing urfave_cli_no_docs osusergo netgo static_build' \
		-ldflags="-s -w -X $c/version.Version=$v" -o "$1/" $c/cmd/containerd $c/cmd/containerd-shim-runc-v2 $c/cmd/ctr
}
# What an image of Multus holds beside Multus, under the names that its makers use.
build_multus-image() {
	local m=gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd
	cd "$here/cni"
	mkdir "$1"
	go build -v -trimpath -ldflags='-s -w' -o "$1/" $m/install_multus $m/thin_entrypoint
	go build -v -trimpath -ldflags='-s -w' -o "$1/passthru" $m/passthru-cni
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
build_helm() {
	local h=helm.sh/helm/v4 v
	v=$(module_version $h helm)
	cd "$here/helm"
	go build -v -trimpath -ldflags="-s -w -X $h/internal/version.version=$v" -o "$1" $h/cmd/helm
}

# make_one NAME: finds or builds it in the scratch folder and moves it into place. A folder and a file are both one rename.
make_one() {
	local name=$1 key
	key=$(key_of "$name") || return 1
	mkdir -p "$tmp/$name" "$dir/.keys"
	take_over "$name" "$key" || "build_$name" "$tmp/$name/$name" >"$tmp/$name.log" 2>&1 </dev/null || return 1
	mv -T "$tmp/$name/$name" "$dir/$name"
	echo "$key" >"$dir/.keys/$name"
	[ "$name" != kube ] || ln -sfn kube "$dir/kubectl" # kube is what it is called
}

# take_over NAME KEY: links what another folder has, if it is the same.
take_over() {
	local other
	for other in "$(tools_cache)"/*/.keys/"$1"; do
		[ "$(cat "$other" 2>/dev/null)" = "$2" ] || continue
		cp -al "${other%/.keys/*}/$1" "$tmp/$1/$1" 2>/dev/null && return 0
		rm -rf "${tmp:?}/$1/$1"
	done
	return 1
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
