// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/railyard-net/railyard/ipam"
)

// Parse checks the spec and makes it a Pool. The error wraps ipam.ErrInvalid and joins one ipam.FieldError for
// each field that is wrong. Status and deletion are not looked at: see Open.
func (p *IPPool) Parse() (ipam.Pool, error) {
	spec := ipam.PoolSpec{
		Name: p.Name, UID: string(p.UID),
		IPv4: p.Spec.IPv4.subnetSpec(), IPv6: p.Spec.IPv6.subnetSpec(),
		DefaultRoute: p.Spec.DefaultRoute, DetectConflicts: p.Spec.DetectConflicts,
	}
	for _, r := range p.Spec.Routes {
		spec.Routes = append(spec.Routes, ipam.RouteSpec{Dst: r.Dst, Via: r.Via})
	}
	if s := p.Spec.CooldownSeconds; s != nil {
		d := time.Duration(*s) * time.Second
		spec.Cooldown = &d
	}
	if w := p.Spec.Watermarks; w != nil {
		spec.Watermarks = ipam.Watermarks{Low: number(w.Low), High: number(w.High), KeepLast: w.KeepLast}
	}
	if s := p.Spec.Sticky; s != nil {
		spec.Sticky = ipam.Sticky{IPAMClaims: slices.Contains(s.For, HolderIPAMClaim), StatefulSets: slices.Contains(s.For, HolderStatefulSet)}
	}
	if p.Spec.NamespaceSelector != nil {
		spec.Namespaces = &p.Status.Namespaces
	}
	var errs []error
	if m := validation.IsDNS1123Label(p.Name); len(m) > 0 {
		errs = append(errs, &ipam.FieldError{Field: "metadata.name", Detail: strings.Join(m, "; ")})
	}
	if _, err := p.selector(); err != nil {
		errs = append(errs, &ipam.FieldError{Field: "spec.nodeSelector", Detail: err.Error()})
	}
	if _, err := metav1.LabelSelectorAsSelector(p.Spec.NamespaceSelector); err != nil {
		errs = append(errs, &ipam.FieldError{Field: "spec.namespaceSelector", Detail: err.Error()})
	}
	pool, err := ipam.ParsePool(spec)
	if err := errors.Join(append(errs, err)...); err != nil {
		return ipam.Pool{}, err
	}
	return pool, nil
}

func number(n *int32) *int {
	if n == nil {
		return nil
	}
	out := int(*n)
	return &out
}

func (s *Subnet) subnetSpec() *ipam.SubnetSpec {
	if s == nil {
		return nil
	}
	return &ipam.SubnetSpec{
		Subnet: s.Subnet, Gateway: s.Gateway, BlockSize: int(s.BlockSize),
		Ranges: texts(s.Ranges), Exclude: texts(s.Exclude), Reserved: texts(s.Reserved),
	}
}

func texts(ranges []AddressRange) []string {
	var out []string
	for _, r := range ranges {
		out = append(out, string(r))
	}
	return out
}

func (p *IPPool) selector() (labels.Selector, error) {
	if p.Spec.NodeSelector == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(p.Spec.NodeSelector)
}

// Open says whether a node with these labels may take something new from the pool: "" if so, else why not, in
// words for ipam.Pool.Closed. A pool that Parse refuses is closed too, which is not looked at here.
func (p *IPPool) Open(nodeLabels map[string]string) string {
	if p.DeletionTimestamp != nil {
		return "the pool is being deleted"
	}
	c := meta.FindStatusCondition(p.Status.Conditions, ConditionAccepted)
	switch {
	case c == nil || c.ObservedGeneration != p.Generation:
		return "the controller has not looked at the pool yet"
	case c.Status != metav1.ConditionTrue:
		return fmt.Sprintf("%s: %s", c.Reason, c.Message)
	}
	s, err := p.selector()
	switch {
	case err != nil:
		return "spec.nodeSelector: " + err.Error()
	case !s.Matches(labels.Set(nodeLabels)):
		return "spec.nodeSelector does not match the node's labels"
	}
	return ""
}

// HoldTime is how long what was reserved for the kind of holder is kept after the holder is gone: never shorter than the pool's cooldown.
func (p *IPPool) HoldTime(kind string) time.Duration {
	hold := ipam.DefaultCooldown
	if s := p.Spec.CooldownSeconds; s != nil {
		hold = time.Duration(*s) * time.Second
	}
	if s := p.Spec.Sticky; kind == HolderStatefulSet {
		most := defaultHold
		if s != nil && s.HoldSeconds != nil {
			most = time.Duration(*s.HoldSeconds) * time.Second
		}
		hold = max(hold, most)
	}
	return hold
}

// defaultHold is that of Sticky.HoldSeconds.
const defaultHold = 10 * time.Minute
