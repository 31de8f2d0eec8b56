#!/usr/bin/env bash
# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# Checks what a commit must leave in order, all of it before it fails, and without changing a file: what generators write is
# written in a copy of the tree.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
bad=()
# check "what to do about it" NAME COMMAND...: quiet unless it fails.
check() {
	local fix=$1 name=$2 out
	shift 2
	if out=$("$@" 2>&1); then
		echo "verify: $name: ok"
	else
		printf 'verify: %s: FAILED\n%s\nverify: to fix it: %s\n' "$name" "$(head -n 60 <<<"$out")" "$fix"
		bad+=("$name")
	fi
}

modules() { find . -name go.mod -not -path '*/testdata/*' -not -path './bin/*' -not -path './build/*' -printf '%h\n' | sort; }
gofmt_clean() {
	local out
	out=$(find . -name '*.go' -not -path '*/testdata/*' -print0 | xargs -0 gofmt -s -l) || return 1
	[ -z "$out" ] || { echo "not formatted:"; echo "$out"; return 1; }
}
# Generated files are removed first, so that one which nothing writes any more is found too.
generated_clean() {
	tar --exclude=./.git --exclude=./bin --exclude=./build -cf - . | tar -xf - -C "$copy" || return 1
	find "$copy" -name 'zz_generated.*' -not -path '*/testdata/*' -delete
	"$copy/test/tools/generate.sh" || return 1
	local d=0
	diff -ru manifests "$copy/manifests" || d=1
	while read -r f; do diff -uN "$f" "$copy/$f" || d=1; done < <({ find . -name 'zz_generated.*' -not -path '*/testdata/*' -not -path './bin/*' -not -path './build/*'; cd "$copy" && find . -name 'zz_generated.*' -not -path '*/testdata/*'; } | sort -u)
	return $d
}

check "gofmt -s -w ." "gofmt" gofmt_clean
check "make generate" "generated files" generated_clean
for m in $(modules); do check "go mod tidy in $m" "module $m tidy" go -C "$m" mod tidy -diff; done
check "read what it says" "go vet" go vet ./...
check "read what it says" "structure (test/arch)" go test -count=1 ./test/arch
[ ${#bad[@]} -eq 0 ] || { printf 'verify: %d failed: %s\n' "${#bad[@]}" "$(IFS=,; echo "${bad[*]}")" >&2; exit 1; }
