// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/compat/pools"
	"github.com/railyard-net/railyard/ipam/iprange"
)

// Annotation is on the pools that a migration has opened; its value is where their addresses come from.
const Annotation = "ipam.railyard.dev/migrated-from"

// What there is of a pool.
const (
	StateNew    = "new"    // it will be made
	StateClosed = "closed" // it is there, and no node may lease from it yet
	StateOpen   = "open"   // it is there and in use, from before or by a migration that is done
	// StateRefused: it is there, and the controller does not accept it. It stays closed.
	StateRefused = "refused"
)

// Plan is what a migration would do. It is a value.
type Plan struct {
	// Source is whose addresses are taken over.
	Source string
	Pools  []Pool
	// Giving are the reasons to believe that the source still gives addresses, Problems what else forbids to begin.
	Giving, Problems []string
	// Lost is what an IPPool cannot say and so does not come along.
	Lost []string
}

// Pool is one IPPool of a plan.
type Pool struct {
	// Object is the pool as it is to be once it is open, or as it is if there is one.
	Object *v1alpha1.IPPool
	State  string
	Holds  []Hold
	Shares []Share
	// Missing is how many holds are not written yet.
	Missing int
	pool    ipam.Pool
}

// Hold is an address that is kept for a pod.
type Hold struct {
	Addr netip.Addr
	// UID is the pod's, or ipam.HoldUnknown where there is none of that name.
	UID, Pod, Node string
	// Why says by what the address is known to be in use.
	Why string
}

// Share is what a node is made owner of.
type Share struct {
	Node, UID string
	Ranges    []iprange.Range
}

// decide is the whole logic of a migration. It changes nothing.
func decide(source string, s state) Plan {
	p := Plan{Source: source, Giving: s.giving, Lost: s.lost, Problems: slices.Clone(s.broken)}
	slices.SortFunc(s.wants, func(a, b want) int { return cmp.Compare(a.pool.Name, b.pool.Name) })
	networks := map[string][]string{} // of each definition
	for _, w := range s.wants {
		for _, nad := range w.nads {
			networks[nad] = append(networks[nad], w.network)
		}
	}
	for _, w := range s.wants {
		pool, problems := decidePool(source, s, w, networks)
		p.Problems = append(p.Problems, problems...)
		p.Pools = append(p.Pools, pool)
	}
	p.Lost = append(p.Lost, homeless(s)...)
	return p
}

func decidePool(source string, s state, w want, networks map[string][]string) (pool Pool, problems []string) {
	pool = Pool{Object: w.pool.DeepCopy(), State: StateNew}
	parsed, err := w.pool.Parse()
	if err != nil {
		return pool, []string{fmt.Sprintf("IPPool %s: %v", w.pool.Name, err)}
	}
	pool.pool = parsed
	if have, ok := s.have[w.pool.Name]; ok {
		pool.Object, pool.State = have.DeepCopy(), stateOf(&have)
		if pool.pool, err = have.Parse(); err != nil || !sameSubnets(pool.pool, parsed) {
			return pool, []string{fmt.Sprintf("IPPool %s exists and has other subnets: delete it, or use another name", have.Name)}
		}
		if pool.State == StateOpen && have.Annotations[Annotation] == source {
			return pool, nil // it was this migration that opened it: what the old objects say is old
		}
	}
	pool.Holds = holds(s, w, pool.pool, networks)
	pool.Shares, problems = shares(s, pool)
	if pool.State != StateRefused {
		conflicts, missing := pool.conflicts(s.fenced)
		pool.Missing, problems = missing, append(problems, conflicts...)
	}
	return pool, problems
}

func stateOf(p *v1alpha1.IPPool) string {
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted)
	switch {
	case c != nil && c.Status == metav1.ConditionFalse && c.ObservedGeneration == p.Generation:
		return StateRefused
	case pools.IsClosed(p):
		return StateClosed
	}
	return StateOpen
}

func sameSubnets(a, b ipam.Pool) bool {
	return slices.EqualFunc(a.Subnets, b.Subnets, func(x, y ipam.Subnet) bool { return x.Prefix == y.Prefix })
}

// homeless are the addresses in use that no pool will have.
func homeless(s state) []string {
	var out []string
	for _, u := range s.live {
		if u.why == byAllocation && !slices.ContainsFunc(s.wants, func(w want) bool {
			p, err := w.pool.Parse()
			_, ok := p.Subnet(u.addr)
			return err == nil && ok && (u.any || u.network == w.network)
		}) {
			out = append(out, fmt.Sprintf("%s of pod %s: no NetworkAttachmentDefinition means a pool that has it", u.addr, u.pod))
		}
	}
	return out
}

// holds are the addresses in use of one pool. What is not known to be of another network is of this one.
func holds(s state, w want, p ipam.Pool, networks map[string][]string) []Hold {
	byAddr := map[netip.Addr]Hold{}
	add := func(a netip.Addr, pod pod, why string) {
		if _, ok := p.Subnet(a); !ok {
			return
		}
		if pod.node == "" { // it has no address yet: somebody of its name had
			pod.uid = ""
		}
		h, ok := byAddr[a]
		if !ok || h.UID == ipam.HoldUnknown && pod.uid != "" {
			h = Hold{Addr: a, UID: cmp.Or(pod.uid, ipam.HoldUnknown), Pod: pod.name, Node: pod.node, Why: h.Why}
		}
		if !strings.Contains(h.Why, why) {
			h.Why = strings.TrimPrefix(h.Why+","+why, ",")
		}
		byAddr[a] = h
	}
	for _, u := range s.live {
		if u.any || u.network == w.network {
			holder := s.pods[u.pod]
			holder.name = u.pod
			add(u.addr, holder, u.why)
		}
	}
	for _, holder := range s.pods {
		for _, x := range holder.has {
			if of, known := networks[x.nad]; !known || slices.Contains(of, w.network) {
				add(x.addr, holder, byStatus)
			}
		}
	}
	out := make([]Hold, 0, len(byAddr))
	for _, h := range byAddr {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Hold) int { return a.Addr.Compare(b.Addr) })
	return out
}

// shares are the rests of the nodes' blocks. A block of a node that is gone is nobody's to look after.
func shares(s state, p Pool) (out []Share, problems []string) {
	var held netipx.IPSetBuilder
	for _, h := range p.Holds {
		held.Add(h.Addr)
	}
	without, _ := held.IPSet() // of addresses that are valid
	for _, b := range s.blocks {
		if b.pool != p.pool.Name {
			continue
		}
		r, err := iprange.New(b.from, b.to)
		_, inside := p.pool.Subnet(b.from)
		_, inside2 := p.pool.Subnet(b.to)
		uid := s.nodes[b.node]
		switch {
		case err != nil || !inside || !inside2:
			problems = append(problems, fmt.Sprintf("IPPool %s: the block %s-%s of node %s is not in the subnet", p.pool.Name, b.from, b.to, b.node))
			continue
		case uid == "":
			problems = append(problems, fmt.Sprintf("IPPool %s: the block %s-%s is of node %s, which does not exist: "+
				"see that nothing runs there, and take the block out of the old pool's status", p.pool.Name, b.from, b.to, b.node))
			continue
		}
		var rest netipx.IPSetBuilder
		rest.AddSet(iprange.Set(r))
		rest.RemoveSet(without)
		set, _ := rest.IPSet() // made of sets
		if ranges := iprange.Ranges(set); len(ranges) > 0 {
			out = append(out, Share{b.node, uid, ranges})
		}
	}
	return out, problems
}

// conflicts are the addresses in use that a node already owns whose agent cannot know of their user: the pool was open
// too early. What the pod's own node owns in a closed pool it has looked after; in an open one it may have given the
// address to that very pod, if no old object has it. Missing is how many are nobody's yet.
func (p Pool) conflicts(blocks []v1alpha1.IPBlock) (out []string, missing int) {
	owner := map[netip.Addr]string{}
	for i := range blocks {
		b, err := blocks[i].Block()
		if err != nil || b.Pool != p.pool.Name || b.PoolUID != p.pool.UID {
			continue
		}
		for _, h := range p.Holds {
			for _, s := range b.Shares {
				if has(s.Ranges, h.Addr) {
					owner[h.Addr] = s.Node
					if _, held := s.Held(); held {
						owner[h.Addr] = ""
					}
				}
			}
		}
	}
	if p.State == StateOpen && len(p.Shares) > 0 {
		out = append(out, fmt.Sprintf("IPPool %s is open, and nodes have blocks of it by the old pool: set a nodeSelector that matches no node, "+
			"see that nothing has an address of it twice, and delete it", p.pool.Name))
	}
	for _, h := range p.Holds {
		o, owned := owner[h.Addr]
		known := o == h.Node && (p.State == StateClosed || h.Why == byStatus)
		switch {
		case !owned && p.State == StateOpen:
			out = append(out, fmt.Sprintf("%s is in use by pod %s, and IPPool %s is open, so that it may be given again: "+
				"set a nodeSelector that matches no node, and end that pod or the new one", h.Addr, h.Pod, p.pool.Name))
		case owned && o != "" && !known:
			out = append(out, fmt.Sprintf("%s of pod %s is owned by node %s already: IPPool %s was open before the migration, so end that pod first",
				h.Addr, h.Pod, o, p.pool.Name))
		}
		if !owned {
			missing++
		}
	}
	return out, missing
}

func has(ranges []iprange.Range, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r iprange.Range) bool { return r.Contains(a) })
}

// fences are the shares to add to each block, by the slot: the holds, and these of p.Shares.
func (p Pool) fences(nodes []Share) map[netip.Prefix][]ipam.Share {
	out := map[netip.Prefix][]ipam.Share{}
	add := func(slot netip.Prefix, s ipam.Share, r iprange.Range) {
		i := slices.IndexFunc(out[slot], func(x ipam.Share) bool { return x.Node == s.Node && x.NodeUID == s.NodeUID })
		if i < 0 {
			i = len(out[slot])
			out[slot] = append(out[slot], s)
		}
		out[slot][i].Ranges = iprange.Ranges(iprange.Set(append(out[slot][i].Ranges, r)...))
	}
	for _, h := range p.Holds {
		sub, _ := p.pool.Subnet(h.Addr)
		add(sub.Slot(h.Addr), ipam.Hold(h.UID, h.Node), iprange.Of(h.Addr))
	}
	for _, s := range nodes {
		for _, r := range s.Ranges {
			sub, _ := p.pool.Subnet(r.From())
			for a := r.From(); ; {
				slot := sub.Slot(a)
				last := iprange.FromPrefix(slot).To()
				if r.To().Less(last) {
					last = r.To()
				}
				if part, err := iprange.New(a, last); err == nil {
					add(slot, ipam.Share{Node: s.Node, NodeUID: s.UID, Session: sessionMigrated}, part)
				}
				if last == r.To() {
					break
				}
				a = last.Next()
			}
		}
	}
	return out
}

// sessionMigrated is no store's: the node's agent looks after the addresses in use before it leases from such a share.
const sessionMigrated = "migrated"

// fence is b with shares added, as far as their addresses are nobody's; false if that is nothing. What somebody owns
// stays as it is: a plan with a conflict is not carried out.
func fence(b ipam.Block, shares []ipam.Share) (ipam.Block, bool) {
	out := b
	out.Shares = slices.Clone(b.Shares)
	changed := false
	for _, s := range shares {
		s.Ranges = out.Unowned(s.Ranges)
		if len(s.Ranges) == 0 {
			continue
		}
		changed = true
		i := slices.IndexFunc(out.Shares, func(x ipam.Share) bool { return x.Node == s.Node && x.NodeUID == s.NodeUID })
		if i < 0 {
			out.Shares = append(out.Shares, s)
			continue
		}
		out.Shares[i].Ranges = iprange.Ranges(iprange.Set(slices.Concat(out.Shares[i].Ranges, s.Ranges)...))
	}
	return out, changed
}

// found is everything that is in use, in words, to be compared with another look.
func (p Plan) found() string {
	var b strings.Builder
	for _, pool := range p.Pools {
		for _, h := range pool.Holds {
			fmt.Fprintln(&b, pool.Object.Name, h.Addr)
		}
		for _, s := range pool.Shares {
			fmt.Fprintln(&b, pool.Object.Name, s.Node, s.Ranges)
		}
	}
	return b.String()
}
