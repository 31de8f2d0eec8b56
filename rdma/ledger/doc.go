// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package ledger says which hardware is in use, whatever names it was handed out under. One GPU may be offered as itself and as half of a pair; the
// kubelet counts each resource for itself and does not know that the two are one. A ledger does, for all front ends of a process together.
//
//	front end ──Know: what each device is made of──▶ ┌────────┐
//	           ──Take: before it answers─────────────▶ │ Ledger │ ──Save──▶ records, which outlive the process
//	kubelet   ──Sync: what pods have, now and then───▶ └────────┘
//
// # States of a device
//
//	free ──Take──▶ given ──Sync shows it──▶ held
//	  ▲              │                        │
//	  └──no Sync has shown it for a grace─────┘
//
// Nobody tells when a pod has ended: the plugin API has no call for that. So what a kubelet lists is the truth. What was given a moment ago is not listed yet, and a
// kubelet that has just started does not know all of its pods: missing is free only after a grace.
//
// # What a crash does
//
// Records are saved before a device is given, so a process that died comes back with what it gave, and with what each was made of then: a pair
// keeps its GPU though the pairs would be others by now. Without records, as after their loss, a device is made of what the front end says today. Until the
// first Sync every record counts as held.
//
// # Invariant
//
// No unit is claimed by two devices that are given or held, unless both share it. [Ledger.Check] looks.
package ledger
