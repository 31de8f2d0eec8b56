// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

// cost is a price in several currencies, of which a later one counts only where all before are equal. Such prices can be added and
// compared as numbers can, which is all that shortest paths need.
type cost [astray + 1]int64

func (c cost) plus(d cost) cost {
	for i := range c {
		c[i] += d[i]
	}
	return c
}

func (c cost) negative() cost {
	for i := range c {
		c[i] = -c[i]
	}
	return c
}

func (c *cost) less(d *cost) bool {
	for i := range c {
		if c[i] != d[i] {
			return c[i] < d[i]
		}
	}
	return false
}

// flow is a network of edges that carry one unit each. Edge e and its reverse e^1 are neighbours in the list; what one carries, the
// other may give back.
type flow struct {
	nodes int
	edges []edge
}

type edge struct {
	from, to int
	free     bool
	cost     cost
}

func (n *flow) add(from, to int, c cost) (id int) {
	n.edges = append(n.edges, edge{from, to, true, c}, edge{to, from, false, c.negative()})
	return len(n.edges) - 2
}

// augment sends one more unit from source to sink by the cheapest way, taking others back where that pays (Bellman-Ford, for there are
// negative costs). It says false if no more fits. After n calls the n units cost as little as n units can.
func (n *flow) augment(source, sink int) bool {
	const none = -1
	price := make([]cost, n.nodes)
	by := make([]int, n.nodes) // the edge by which a node is reached
	for i := range by {
		by[i] = none
	}
	for changed := true; changed; {
		changed = false
		for id := range n.edges {
			e := &n.edges[id]
			if !e.free || e.to == source || e.from != source && by[e.from] == none {
				continue
			}
			if p := price[e.from].plus(e.cost); by[e.to] == none || p.less(&price[e.to]) {
				price[e.to], by[e.to], changed = p, id, true
			}
		}
	}
	if by[sink] == none {
		return false
	}
	for at := sink; at != source; at = n.edges[by[at]].from {
		n.edges[by[at]].free = false
		n.edges[by[at]^1].free = true
	}
	return true
}
