// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package conf is the one definition of the railyard plugin's CNI config: the controller renders it, the plugin
// parses it, and both mean the same by every key.
//
// [Config] is the config as it is written, key by key. [Parse] reads one, checks every field and gives a [Spec],
// which cannot be wrong: nobody checks again after it. [ParseKnown] reads the little that DEL may count on, because
// Multus strips the config of a DEL to cniVersion, name, type and ipam.type. [ParseIPAM] reads a config as
// the IPAM plugin behind any other main plugin sees it.
//
// Errors: [ErrSyntax] for text that is no JSON object, and [FieldError], which names the field and the fix, for
// everything else. Unknown keys are tolerated, as the CNI specification asks.
package conf
