// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package dispatch

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
)

// The codes of the CNI specification that Railyard's plugins answer with. CodeNetNS is the reference library's.
const (
	CodeVersion          = types.ErrIncompatibleCNIVersion      // 1: the config's cniVersion is not supported, or not by this verb
	CodeUnknownContainer = types.ErrUnknownContainer            // 3: CHECK of what was never attached here
	CodeEnvironment      = types.ErrInvalidEnvironmentVariables // 4: a CNI_ variable is missing or wrong
	CodeIO               = types.ErrIOFailure                   // 5: a file could not be read or written
	CodeDecode           = types.ErrDecodingFailure             // 6: stdin is no JSON object
	CodeConfig           = types.ErrInvalidNetworkConfig        // 7: a field of the config is missing or wrong
	CodeNetNS            = types.ErrInvalidNetNS                // 8: CNI_NETNS is no network namespace, or the plugin's own
	CodeTryAgain         = types.ErrTryAgainLater               // 11: nothing is wrong with the call, later it may succeed
	CodeNotReady         = types.ErrPluginNotAvailable          // 50: STATUS: an ADD would fail now
	CodeNoRoom           = types.ErrLimitedConnectivity         // 51: STATUS: an ADD would find no free address
)

// The codes of Railyard's own: the specification leaves those from 100 on to the plugin.
const (
	// CodeBug: a fault of the program. Please report it.
	CodeBug uint = 100 + iota
	// CodeTaken: the address asked for by name is held by another attachment or node.
	CodeTaken
	// CodeAttached: this container has this interface already; an ADD needs a DEL before it.
	CodeAttached
	// CodeInterfaceExists: the pod has an interface of that name, and it is not ours.
	CodeInterfaceExists
	// CodeMaster: the master is missing or could not be brought up.
	CodeMaster
	// CodeLink: the kernel refused the link.
	CodeLink
	// CodeAddress: the kernel refused an address, or found it in use.
	CodeAddress
	// CodeRoute: the kernel refused a route.
	CodeRoute
	// CodeSysctl: the kernel refused a setting.
	CodeSysctl
	// CodeDrift: CHECK found the attachment changed.
	CodeDrift
	// CodeJournal: the attachment's journal cannot be read, or was written by a newer version with a step that
	// this one cannot undo.
	CodeJournal
	// CodeDelegate: another plugin could not be executed, or gave no answer by the specification.
	CodeDelegate
	// CodeRDMA: the interface has no RDMA device as the config asks for, or the kernel refused to hand it over.
	CodeRDMA
)

// Errorf is an error with a code. The cause may be wrapped with %w: it is kept for errors.Is.
func Errorf(code uint, format string, args ...any) error {
	return &codedError{code, fmt.Errorf(format, args...)}
}

type codedError struct {
	code uint
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// Code gives the code that Run reports err with.
func Code(err error) uint {
	var coded *codedError
	var foreign *types.Error
	var field *conf.FieldError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &foreign):
		return foreign.Code
	case errors.Is(err, conf.ErrSyntax):
		return CodeDecode
	case errors.As(err, &field), errors.Is(err, ipam.ErrInvalid), errors.Is(err, ipam.ErrPoolUnknown):
		return CodeConfig
	case errors.Is(err, ipam.ErrPoolFull), errors.Is(err, ipam.ErrPoolClosed), errors.Is(err, ipam.ErrUnavailable):
		return CodeTryAgain
	case errors.Is(err, ipam.ErrTaken):
		return CodeTaken
	case errors.Is(err, ipam.ErrNotFound):
		return CodeUnknownContainer
	default:
		return CodeBug
	}
}

// StatusError gives the reason why a pool is not ready the code that STATUS reports it with: CodeNoRoom where only
// addresses lack, CodeNotReady for everything else. Nil stays nil.
func StatusError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ipam.ErrPoolFull):
		return Errorf(CodeNoRoom, "%w", err)
	default:
		return Errorf(CodeNotReady, "%w", err)
	}
}

// answer is the error object of the specification for err.
func answer(err error) *types.Error {
	var foreign *types.Error
	if errors.As(err, &foreign) && foreign.Error() == err.Error() {
		return foreign // another plugin's, unchanged
	}
	return types.NewError(Code(err), err.Error(), "")
}
