// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
)

// ReservationName is the name of the reservation that h has in a pool: so making it is the mutual exclusion between two that want one.
func ReservationName(pool string, h Holder) string {
	words := []string{h.Kind, h.Namespace, h.Name, h.UID, h.Pod, h.Interface}
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return pool + "." + hex.EncodeToString(sum[:16])
}

// HoldID names the reservation in the shares that hold its addresses.
func (r *IPReservation) HoldID() string { return HoldID(r.Name) }

// HoldID is what of a reservation's name is not the pool's.
func HoldID(reservation string) string {
	return reservation[strings.LastIndexByte(reservation, '.')+1:]
}

// Hold is the share that holds addresses for the reservation; it has no ranges yet.
func (r *IPReservation) Hold() ipam.Share { return ipam.Reserved(r.HoldID()) }

// Addrs are the addresses, IPv4 first. The error wraps ipam.ErrInvalid.
func (r *IPReservation) Addrs() ([]netip.Addr, error) {
	var out []netip.Addr
	for i, text := range r.Spec.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return nil, fmt.Errorf("reservation %s: %w", r.Name, &ipam.FieldError{Field: fmt.Sprintf("spec.addresses[%d]", i), Detail: fmt.Sprintf("%q is no address", text)})
		}
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, nil
}

// SetUser makes u the user, and the label ours say on which node; nil is nobody.
func (r *IPReservation) SetUser(u *ReservationUser) {
	l := map[string]string{}
	for k, v := range r.Labels {
		if !strings.HasPrefix(k, labelNodePrefix) {
			l[k] = v
		}
	}
	l[LabelPool] = r.Spec.Pool
	if u != nil {
		l[NodeLabel(u.Node)] = ""
	}
	r.Labels, r.Spec.User = l, u
}

// Key is the attachment's.
func (u *ReservationUser) Key(ifName string) ipam.Key {
	return ipam.Key{Network: u.Network, ContainerID: u.ContainerID, IfName: ifName}
}

// NewReservation makes the object in which h has the addresses of the pool.
func NewReservation(pool ipam.Pool, h Holder, addrs []netip.Addr, u *ReservationUser) *IPReservation {
	r := &IPReservation{
		ObjectMeta: metav1.ObjectMeta{Name: ReservationName(pool.Name, h), Finalizers: []string{FinalizerHolds}},
		Spec:       IPReservationSpec{Pool: pool.Name, PoolUID: pool.UID, Holder: h},
	}
	r.SetAddrs(addrs)
	r.SetUser(u)
	return r
}

// SetAddrs makes the addresses those.
func (r *IPReservation) SetAddrs(addrs []netip.Addr) {
	r.Spec.Addresses = nil
	for _, a := range addrs {
		r.Spec.Addresses = append(r.Spec.Addresses, a.String())
	}
}

func (h Holder) String() string {
	if h.Kind == HolderStatefulSet {
		return fmt.Sprintf("pod %s/%s of StatefulSet %s, interface %s", h.Namespace, h.Pod, h.Name, h.Interface)
	}
	return fmt.Sprintf("%s %s/%s, interface %s", h.Kind, h.Namespace, h.Name, h.Interface)
}
