// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package claim is the API side of blocks: how a node becomes the owner of addresses, and stops being it.
//
// # Protocol
//
// A pool is cut into slots, and the IPBlock of a slot has a name that follows from pool and slot. CREATE is the
// mutual exclusion for a slot without an object; an UPDATE under resourceVersion is it inside of one. There is no
// lock, no leader and no list of all addresses. A call of [Claimer] is a loop of three steps: read the object,
// decide on values what it should be, write it. It ends when the object is what it should be:
//
//   - a write was acknowledged: the answer is what the API server said it stored;
//   - nothing had to be written, by a read that went to the API server and not to a cache.
//
// A write that was refused (the object exists, has changed, is gone) and a write without an answer are treated
// alike: the next read decides. So a lost answer neither loses a share nor takes a second one. Each call may be
// repeated at any time.
//
// # Guarantees
//
//   - An address is in at most one share, whatever is lost, repeated or raced: every write names the version that
//     it was decided on, or is a CREATE.
//   - What a call returned without error is the caller's until a call gives it up.
//   - What a call that failed may have taken is in the API with the caller's node label, so that its watch shows
//     it: it takes it over by [Claimer.Adopt] or gives it up by [Claimer.Release].
//
// # Ceding
//
// Where every address is owned, [Claimer.Claim] says whom to ask ([FullError]). [Claimer.Ask] puts a want into a block,
// [Claimer.Offer] is its answer, by which the owner gives addresses up, and [Claimer.Take] is how the asker becomes their
// owner. A want decides nothing: what is taken is what no share holds in the version that the write names. Wants expire by the
// wall clock; until then claims leave alone what was offered to another. The three may be repeated, as all calls here.
//
// A share names its owner's session. A node that finds a share of its own with another session ([Claimer.Adopt])
// writes its own first and leases after: what the old session had under way then fails on the version.
//
// # Failures
//
// An error wraps one of package ipam's, and often says more: [ErrGone], [ErrNoShare], [ForeignError]. Attempts are
// few and spread (about 5 s in all), so the caller repeats ErrUnavailable at its own pace.
//
// # Load
//
// A claim is one request while the pool is not crowded; a release is one where the first read can be served by a
// cache. Claims come in bursts when many pods start, and client-go's default of 5 requests a second would make
// them wait: give the client a rest.Config with QPS: -1 (the API server's priority and fairness is the limit), or
// at least QPS 50 and Burst 100.
package claim
