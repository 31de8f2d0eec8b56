#!/usr/bin/env bash
# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# Runs every fuzz target of the repository for $FUZZTIME each, one after the other, and fails at the end if one found something.
# An input that breaks a target is written to testdata/fuzz beside it: commit it, and every later "go test" runs it again.
# Inputs that merely reach new code stay in Go's build cache, where the next run starts from them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

failed=() count=0
while IFS=: read -r file line; do
	target=$(sed -E 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/' <<<"$line")
	count=$((count + 1))
	echo "fuzz: $target in $(dirname "$file") for ${FUZZTIME:-20s}"
	go test -run='^$' -fuzz="^$target\$" -fuzztime="${FUZZTIME:-20s}" "./$(dirname "$file")" </dev/null || failed+=("$target in $(dirname "$file")")
done < <(find . -name '*_test.go' -not -path '*/testdata/*' -printf '%P\n' | LC_ALL=C sort | xargs -r grep -HE '^func Fuzz[A-Za-z0-9_]*\(')

echo "fuzz: $count targets, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ] || { printf 'fuzz: failed: %s\n' "${failed[@]}" >&2; exit 1; }
[ "$count" -gt 0 ] || { echo "fuzz: no target found" >&2; exit 1; }
