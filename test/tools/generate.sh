#!/usr/bin/env bash
# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# Writes what is generated from the API types, in the repository that this file lies in: deep copies beside the types, and the CRDs.
# controller-gen is looked for in PATH, where make puts the pinned one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Removed first, so that the CRD of a type which is no more goes too.
grep -rlZ --include='*.yaml' 'controller-gen.kubebuilder.io/version' manifests/crd | xargs -0 -r rm
controller-gen \
	object:headerFile=test/tools/header.go.txt \
	crd output:crd:dir=manifests/crd \
	paths=./ipam/api/... paths=./netdef/api/...
