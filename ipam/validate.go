// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/railyard-net/railyard/ipam/iprange"
)

// The longest parts of a Key. A network may be called namespace/name, the runtimes' IDs have 64 digits.
const (
	MaxNetwork     = 512
	MaxContainerID = 256
	MaxIfName      = 64
	maxPodField    = 253
)

// Validate refuses a key with an empty part, a control character, what is not UTF-8, or more bytes than the limits
// above. The error joins one FieldError for each wrong part.
func (k Key) Validate() error {
	return errors.Join(
		checkText("network", k.Network, 1, MaxNetwork),
		checkText("containerID", k.ContainerID, 1, MaxContainerID),
		checkText("ifName", k.IfName, 1, MaxIfName),
	)
}

// Validate refuses what no store could answer, whatever pools it has. The error joins one FieldError for each
// wrong field.
func (r Request) Validate() error {
	errs := []error{
		r.Key.Validate(),
		CheckPoolName("pool", r.Pool),
		checkText("pod.namespace", r.Pod.Namespace, 0, maxPodField),
		checkText("pod.name", r.Pod.Name, 0, maxPodField),
		checkText("pod.uid", r.Pod.UID, 0, maxPodField),
		checkText("netns.path", r.NetNS.Path, 0, 4096),
		checkText("attachment", r.Attachment, 0, MaxIfName),
	}
	var has4, has6 bool
	for i, a := range r.Static {
		field := fmt.Sprintf("ips[%d]", i)
		if err := iprange.CheckAddr(a); err != nil {
			errs = append(errs, fieldErrorf(field, "%v", err))
			continue
		}
		if a.Is4() && has4 || a.Is6() && has6 {
			errs = append(errs, fieldErrorf(field, "%s is the second address of its family: ask for at most one of each", a))
		}
		has4, has6 = has4 || a.Is4(), has6 || a.Is6()
	}
	return errors.Join(errs...)
}

// CheckPoolName refuses what is not the name of a Kubernetes object of at most MaxPoolName characters: lower-case
// letters, digits, dashes and dots, with a letter or digit at either end of every part between dots.
func CheckPoolName(field, name string) error {
	if name == "" || len(name) > MaxPoolName {
		return fieldErrorf(field, "%.80q has %d characters: use 1 to %d", name, len(name), MaxPoolName)
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' || !plain(part) {
			return fieldErrorf(field, "%q is no name: use a-z, 0-9 and - between dots, and no - at an end", name)
		}
	}
	return nil
}

func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func checkText(field, s string, least, most int) error {
	switch {
	case len(s) < least:
		return fieldErrorf(field, "is empty: give it a value")
	case len(s) > most:
		return fieldErrorf(field, "has %d bytes: use at most %d", len(s), most)
	}
	if !utf8.ValidString(s) { // JSON would make it another
		return fieldErrorf(field, "%q is not UTF-8: use printable text", s)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return fieldErrorf(field, "%q holds a control character: use printable text", s)
		}
	}
	return nil
}
