// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net"
	"slices"

	"github.com/railyard-net/railyard/ipam/store"
)

// snapshot is everything that an attachment may have changed: links of the host and the pod, settings of the pod,
// leases, journals.
type snapshot struct {
	Host, Pod, Settings, Leases, Files []string
}

// lasting are settings that outlive an interface; the tests set them.
var lasting = []string{
	"net/ipv4/conf/all/arp_ignore", "net/ipv4/conf/all/rp_filter", "net/core/somaxconn", "net/ipv4/tcp_rmem",
	"net/ipv4/ip_local_reserved_ports",
}

func (l *lab) snapshot(pods ...*space) snapshot {
	l.t.Helper()
	out := snapshot{Host: l.host.links(), Files: l.files()}
	for i, p := range pods {
		if p.ns == nil {
			continue
		}
		for _, link := range p.links() {
			out.Pod = append(out.Pod, fmt.Sprintf("%d: %s", i, link))
		}
		for _, path := range lasting {
			out.Settings = append(out.Settings, fmt.Sprintf("%d: %s=%s", i, path, p.sysctl(path)))
		}
	}
	l.withStore(func(s *store.Store) {
		leases, err := s.Leases()
		must(l.t, err)
		for _, x := range leases {
			out.Leases = append(out.Leases, fmt.Sprint(x.Key, x.Addresses))
		}
		stats, err := s.Stats()
		must(l.t, err)
		out.Leases = append(out.Leases, fmt.Sprintf("%+v", stats))
	})
	return out
}

// links are the namespace's links with all that identifies and configures them.
func (s *space) links() []string {
	s.t.Helper()
	all, err := s.link.LinkList()
	must(s.t, err)
	var out []string
	for _, l := range all {
		a := l.Attrs()
		out = append(out, fmt.Sprintf("%d %s %s %s mtu %d %s alt %v promisc %d", a.Index, a.Name, l.Type(), a.HardwareAddr, a.MTU, a.Flags&^net.FlagRunning, a.AltNames, a.Promisc))
	}
	slices.Sort(out)
	return out
}
