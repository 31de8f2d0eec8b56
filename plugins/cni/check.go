// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

func (p *plugin) check(ctx context.Context, args dispatch.Args) error {
	spec, err := parseSpec(args, p.StateDir)
	if err != nil {
		return err
	}
	id := idOf(args)
	dir, lock, err := p.lock(ctx, spec.StateDir, id)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	j, err := dir.Read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dispatch.Errorf(dispatch.CodeUnknownContainer, "%s has no %s that was attached here", id.ContainerID, id.IfName)
	case err != nil:
		return journalError(err)
	case j.Result == nil:
		return dispatch.Errorf(dispatch.CodeDrift, "the ADD of %s died midway: a DEL or ADD cleans up", id)
	case j.NetNS != args.NS && (j.NetNS.Dev != args.NS.Dev || j.NetNS.Ino != args.NS.Ino):
		return dispatch.Errorf(dispatch.CodeDrift, "%s was attached in another namespace, %s", id, j.NetNS.Path)
	}
	result, err := dispatch.DecodeResult(j.Result, current.ImplementedSpecVersion)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeJournal, "the result in the journal of %s: %w", id, err)
	}
	macs, err := checkPrevious(spec, args, j)
	if err != nil {
		return err
	}
	pod, err := openPod(args.NS)
	if err != nil {
		return dispatch.Errorf(dispatch.CodeNetNS, "CNI_NETNS: %w", err)
	}
	defer pod.close()
	c := checking{plugin: p, args: args, pod: pod, result: result}
	errs := []error{}
	for _, s := range j.Steps {
		if s.Link != nil && macs[s.Link.Name] != "" {
			s.Link.MAC = macs[s.Link.Name] // a plugin after this one, tuning for one, may have changed it, and says so
		}
		errs = append(errs, c.step(ctx, s))
	}
	return errors.Join(errs...)
}

// checkPrevious makes sure that the result that the runtime remembers has an interface of the attachment, and gives the
// MACs in it by interface.
func checkPrevious(spec conf.Spec, args dispatch.Args, j journal.Journal) (map[string]string, error) {
	macs, known := map[string]string{}, false
	if spec.PrevResult == nil {
		return macs, nil
	}
	r, err := previous(spec, args.CNIVersion)
	if err != nil {
		return nil, err
	}
	for _, i := range r.Interfaces {
		if !inSandbox(i, args.NS) || !slices.ContainsFunc(j.Steps, func(s journal.Step) bool { return s.Link != nil && s.Link.Name == i.Name }) {
			continue
		}
		known = true
		if i.Mac == "" {
			continue
		}
		mac, err := net.ParseMAC(i.Mac)
		if err != nil {
			return nil, dispatch.Errorf(dispatch.CodeConfig, "prevResult.interfaces.mac: %w", err)
		}
		macs[i.Name] = mac.String()
	}
	if !known {
		return nil, dispatch.Errorf(dispatch.CodeConfig, "prevResult: has no interface %s: pass the result of the ADD unchanged", args.IfName)
	}
	return macs, nil
}

// checking is one CHECK.
type checking struct {
	*plugin
	args   dispatch.Args
	pod    *pod
	result *current.Result
	// link is that of the step before: rules are its rail's.
	link *journal.Link
}

func (c *checking) step(ctx context.Context, s journal.Step) error {
	switch {
	case !s.Known():
		return dispatch.Errorf(dispatch.CodeJournal, "%w: a step is unknown to this program", journal.ErrNewer)
	case s.Lease != nil:
		return c.checkLease(ctx, *s.Lease)
	case s.Delegate != nil:
		args := c.args
		args.IfName = cmp.Or(s.Delegate.IfName, args.IfName)
		_, err := c.foreignCall(args, s.Delegate.Type).run(ctx)
		return err
	case s.Link != nil:
		c.link = s.Link
		return c.checkLink(s.Link)
	case s.Rule != nil:
		return c.checkRules(s.Rule)
	case s.RDMA != nil:
		return c.checkRDMA(s.RDMA)
	case s.ToS != nil:
		return c.checkToS(s.ToS)
	case s.Sysctl != nil:
		return checkSysctl(c.pod, *s.Sysctl)
	}
	return nil // the file of device information may be moved by whom it is for
}

func (c *checking) checkLink(l *journal.Link) error {
	link, err := findLink(c.pod.link, l)
	switch {
	case err != nil:
		return err
	case link == nil:
		return dispatch.Errorf(dispatch.CodeDrift, "the interface %s is gone, or another is in its place", l.Name)
	}
	if err := compareLink(link, l); err != nil {
		return dispatch.Errorf(dispatch.CodeDrift, "%w", err)
	}
	if l.Host != nil {
		if err := c.checkVF(l.Host.VF); err != nil {
			return err
		}
	}
	return compareAddresses(c.pod.link, link, c.ipsOf(l), l.Routes)
}

// ipsOf are the addresses that the result has for the interface.
func (c *checking) ipsOf(l *journal.Link) []*current.IPConfig {
	at := inPod(c.result, l.Name)
	return slices.DeleteFunc(slices.Clone(c.result.IPs), func(i *current.IPConfig) bool { return i.Interface == nil || *i.Interface != at })
}

// checkRules looks for the rule of each of the rail's addresses.
func (c *checking) checkRules(r *journal.Rule) error {
	have, err := rulesOf(c.pod.link, r)
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range c.ipsOf(c.link) {
		want := ruleFor(i, r.Table)
		if !slices.ContainsFunc(have, func(h netlink.Rule) bool { return h.Src != nil && h.Src.String() == want.Src.String() }) {
			errs = append(errs, dispatch.Errorf(dispatch.CodeDrift, "the pod has lost the rule from %s to table %d", want.Src, r.Table))
		}
	}
	return errors.Join(errs...)
}

func checkSysctl(pod *pod, s journal.Sysctl) error {
	return pod.do(func() error {
		is, err := readSysctl(s.Path)
		if err != nil {
			return dispatch.Errorf(dispatch.CodeDrift, "read %s: %w", s.Path, err)
		}
		// The kernel separates several values by tabs, whatever they were written with.
		if !slices.Equal(strings.Fields(is), strings.Fields(s.Value)) {
			return dispatch.Errorf(dispatch.CodeDrift, "%s is %q, it was set to %q", s.Path, is, s.Value)
		}
		return nil
	})
}

// checkLease makes sure that the addresses are still the attachment's.
func (c *checking) checkLease(ctx context.Context, s journal.Lease) error {
	paths := conf.Paths{StateDir: s.StateDir, AgentSocket: s.AgentSocket}
	l, err := c.Leaser(paths).Lookup(ctx, leaseKey(c.args.Name, railID(idOf(c.args), s.IfName)))
	switch {
	case errors.Is(err, ipam.ErrNotFound):
		return dispatch.Errorf(dispatch.CodeDrift, "the lease is gone: %w", err)
	case err != nil:
		return err
	}
	for _, a := range l.Addresses {
		if !slices.ContainsFunc(c.result.IPs, func(i *current.IPConfig) bool { return prefix(i) == a.Prefix }) {
			return dispatch.Errorf(dispatch.CodeDrift, "%w", fmt.Errorf("the lease holds %s, which the attachment was not given", a.Prefix))
		}
	}
	return nil
}

func prefix(c *current.IPConfig) netip.Prefix {
	a, _ := netip.AddrFromSlice(c.Address.IP)
	ones, _ := c.Address.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}
