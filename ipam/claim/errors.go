// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/railyard-net/railyard/ipam"
)

var (
	// ErrGone: the API server says that there is no such block.
	ErrGone = errors.New("the block does not exist")
	// ErrNoShare: the owner has no share in the block, which may not even exist (then it is an ErrGone as well).
	ErrNoShare = errors.New("no share in the block")
	// ErrNoCeding: the API server drops what a node asks for, because its custom resource for blocks is older.
	ErrNoCeding = errors.New("the cluster's IPBlock resource does not know of wants: apply its manifest of this version")

	// errSlotTaken: a decision to leave a slot to its owners. It does not leave the package.
	errSlotTaken = errors.New("slot taken")
)

// ForeignError is an ErrPoolClosed: a block of another pool of the same name is in the way. The pool was deleted
// and made again while nodes held its addresses; the controller accepts the new one when they are released.
type ForeignError struct {
	Block, Pool string
	// Want is the UID of the pool asked for, Have the one of the pool that the block is part of.
	Want, Have string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("block %s belongs to an earlier pool %s (uid %s, not %s): it goes when its node releases it",
		e.Block, e.Pool, e.Have, e.Want)
}

// Is makes every ForeignError an ErrPoolClosed.
func (e *ForeignError) Is(target error) bool { return target == ipam.ErrPoolClosed }

// unreadableError is a block that says nothing that could be relied on.
type unreadableError struct{ err error }

func (e *unreadableError) Error() string { return e.err.Error() }
func (e *unreadableError) Unwrap() error { return e.err }

// outcome is what is known about a write after its error.
type outcome int

const (
	raced   outcome = iota // not done: the object is another than the one decided on
	unknown                // done or not: only a read can tell
	refused                // not done, and never will be
)

func outcomeOf(err error) outcome {
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
		return raced
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err),
		apierrors.IsMethodNotSupported(err), apierrors.IsRequestEntityTooLargeError(err):
		return refused
	}
	return unknown
}

// typed makes err one of package ipam's.
func typed(err error) error {
	switch {
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("%w: %w", ipam.ErrInvalid, err)
	case isTyped(err):
		return err
	}
	return fmt.Errorf("%w: %w", ipam.ErrUnavailable, err)
}

func isTyped(err error) bool {
	for _, t := range []error{ipam.ErrInvalid, ipam.ErrPoolClosed, ipam.ErrPoolFull, ipam.ErrTaken, ipam.ErrUnavailable, ErrGone, ErrNoShare, ErrNoCeding, errSlotTaken} {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
