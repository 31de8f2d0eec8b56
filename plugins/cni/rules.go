// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// rulePriority is before that of the main table, 32766. Rules of a rail are told from all others by their table.
const rulePriority = 1000

// planTables gives each rail a routing table that nothing else in the pod uses: another attachment of several rails, for one, which may be
// about to. It changes nothing.
func (p *plugin) planTables(ctx context.Context, dir *journal.Dir, t *attachment) error {
	if !t.spec.Multi() {
		return nil
	}
	if err := t.lockPod(ctx, p, dir); err != nil {
		return err
	}
	used, named := map[int]bool{}, []int{}
	for _, j := range others(dir, idOf(t.args)) {
		for _, s := range j.Steps {
			if s.Rule != nil && samePod(j, t.args.NS) {
				used[s.Rule.Table] = true
			}
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := t.pod.link.RuleList(family)
		if err != nil {
			return dispatch.Errorf(dispatch.CodeRoute, "list the pod's rules: %w", err)
		}
		for _, r := range list {
			used[r.Table] = true
		}
	}
	for _, s := range t.spec.Rails {
		if !s.AutoTable {
			named = append(named, s.Table)
		}
	}
	for i, s := range t.spec.Rails {
		table := s.Table
		for s.AutoTable && (used[table] || slices.Contains(named, table)) {
			table++
		}
		if used[table] {
			return &conf.FieldError{Field: fmt.Sprintf("rails[%d].table", i), Detail: fmt.Sprintf("%d has rules in the pod already: write another one, or none", table)}
		}
		used[table], t.rails[i].table = true, table
	}
	return nil
}

// routeBySource sends what leaves with the rail's addresses out over the rail, whatever the main table says: the
// rail's table has its subnets and routes, and a rule for each address leads there.
func (p *plugin) routeBySource(pod *pod, link netlink.Link, r *rail) error {
	for _, c := range r.got.ips {
		subnet := net.IPNet{IP: c.Address.IP.Mask(c.Address.Mask), Mask: c.Address.Mask}
		routes := []*netlink.Route{{LinkIndex: link.Attrs().Index, Dst: &subnet, Src: c.Address.IP, Scope: netlink.SCOPE_LINK, Table: r.table}}
		if c.Address.IP.To4() == nil {
			routes[0].Src = nil // IPv6 selects it by the rule
		}
		if c.Gateway != nil {
			routes = append(routes, &netlink.Route{LinkIndex: link.Attrs().Index, Dst: anywhere(c.Address.IP), Gw: c.Gateway, Table: r.table})
		}
		for _, x := range r.got.install {
			if x.Table == nil && (x.Dst.IP.To4() == nil) == (c.Address.IP.To4() == nil) {
				k := kernelRoute(link, x)
				k.Table = r.table
				routes = append(routes, k)
			}
		}
		for _, k := range routes {
			if err := pod.link.RouteAdd(k); err != nil && !errors.Is(err, unix.EEXIST) {
				return dispatch.Errorf(dispatch.CodeRoute, "add the route to %s to table %d of %s: %w", k.Dst, r.table, r.name(), err)
			}
		}
		if err := pod.link.RuleAdd(ruleFor(c, r.table)); err != nil && !errors.Is(err, unix.EEXIST) {
			return dispatch.Errorf(dispatch.CodeRoute, "add the rule from %s to table %d: %w", c.Address.IP, r.table, err)
		}
		p.Hit("add:ruled")
	}
	return nil
}

func anywhere(like net.IP) *net.IPNet {
	if like.To4() != nil {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

func ruleFor(c *current.IPConfig, table int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Table, rule.Priority = netlink.FAMILY_V4, table, rulePriority
	rule.Src = &net.IPNet{IP: c.Address.IP, Mask: net.CIDRMask(32, 32)}
	if c.Address.IP.To4() == nil {
		rule.Family, rule.Src.Mask = netlink.FAMILY_V6, net.CIDRMask(128, 128)
	}
	return rule
}

// rulesOf are the rules of that priority that lead to the table.
func rulesOf(h *netlink.Handle, r *journal.Rule) ([]netlink.Rule, error) {
	var out []netlink.Rule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := h.RuleListFiltered(family, &netlink.Rule{Table: r.Table, Priority: r.Priority}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PRIORITY)
		if err != nil {
			return nil, dispatch.Errorf(dispatch.CodeRoute, "list the pod's rules: %w", err)
		}
		for _, one := range list {
			one.Family = family
			out = append(out, one)
		}
	}
	return out, nil
}

func removeRules(h *netlink.Handle, r *journal.Rule) error {
	list, err := rulesOf(h, r)
	if err != nil {
		return err
	}
	for _, one := range list {
		if err := h.RuleDel(&one); err != nil && !errors.Is(err, unix.ENOENT) {
			return dispatch.Errorf(dispatch.CodeRoute, "remove the rule from %s to table %d: %w", one.Src, r.Table, err)
		}
	}
	return nil
}
