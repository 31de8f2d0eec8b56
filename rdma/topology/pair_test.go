// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/rdma"
)

// drawing makes machines up.
type drawing struct {
	strings.Builder
	r          *rand.Rand
	bus        int
	gpus, nics int // that are still to be placed
}

func (d *drawing) line(depth int, format string, args ...any) {
	fmt.Fprintf(d, "%s%s\n", strings.Repeat("  ", depth), fmt.Sprintf(format, args...))
}

func (d *drawing) nextBus() int { d.bus++; return d.bus }

// randomMachine has so many GPUs and NICs under host bridges, root ports and nested switches.
func randomMachine(t testing.TB, r *rand.Rand, gpus, nics int) *machine {
	d := &drawing{r: r, gpus: gpus, nics: nics}
	for d.gpus+d.nics > 0 {
		bus := d.nextBus()
		d.line(0, "pci0000:%02x numa=%d", bus, r.IntN(3)-1)
		for slot := range 1 + r.IntN(3) {
			if r.IntN(8) == 0 {
				d.device(1, bus, 16+slot)
				continue
			}
			d.line(1, "0000:%02x:%02x.0 root", bus, slot)
			d.below(2, d.nextBus())
		}
	}
	return draw(t, d.String())
}

// below puts on a bus a switch or a device.
func (d *drawing) below(depth, bus int) {
	if depth > 6 || d.r.IntN(2) == 0 {
		d.device(depth, bus, 0)
		return
	}
	d.line(depth, "0000:%02x:00.0 up", bus)
	inside := d.nextBus()
	for slot := range 1 + d.r.IntN(3) {
		d.line(depth+1, "0000:%02x:%02x.0 down", inside, slot)
		d.below(depth+2, d.nextBus())
	}
}

func (d *drawing) device(depth, bus, slot int) {
	rail := d.r.IntN(5) - 1
	switch gpu := d.r.IntN(2) == 0; {
	case gpu && d.gpus > 0:
		d.gpus--
		c2c := ""
		if d.r.IntN(4) == 0 {
			c2c = "c2c"
		}
		d.line(depth, "0000:%02x:%02x.0 gpu G%d rail=%d %s", bus, slot, d.gpus, rail, c2c)
	case !gpu && d.nics > 0:
		for f := range min(1+d.r.IntN(2), d.nics) { // ports
			d.nics--
			d.line(depth, "0000:%02x:%02x.%d nic N%d rail=%d speed=%d", bus, slot, f, d.nics, rail, 100000*(1+d.r.IntN(2)))
		}
	}
}

// oracle says the class from the names of the two folders alone: where these part, and what each has below. Ports of switches
// alternate in these machines.
func (m *machine) oracle(g GPU, nic rdma.BusAddr, numa func(rdma.BusAddr) int) Class {
	a := strings.Split(m.places[g.Addr], "/")[1:]
	b := strings.Split(m.places[nic], "/")[1:]
	same := 0
	for same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	switch {
	case same >= 2 && len(a)-same <= 2 && len(b)-same <= 2 && (len(a)-same == 2) == (len(b)-same == 2):
		return PIX
	case same >= 2:
		return PXB
	case g.C2C && (same == 1 || numa(g.Addr) >= 0 && numa(g.Addr) == numa(nic)):
		return P2C
	case same == 1:
		return PHB
	case numa(g.Addr) == numa(nic):
		return NODE
	}
	return SYS
}

// merit is what the documentation of Pair promises, in its order; the greatest is the best.
func merit(pairs []Pair) []int64 {
	gpus, nics := map[rdma.BusAddr]int64{}, map[rdma.BusAddr]int64{}
	classes := make([]int64, SYS+1)
	var speed, astray int64
	for _, p := range pairs {
		gpus[p.GPU.Addr]++
		nics[p.NIC.Addr]++
		classes[p.Path.Class]++
		speed += p.NIC.Speed
		if p.GPU.Rail >= 0 && p.NIC.Rail >= 0 {
			astray += int64((p.GPU.Rail - p.NIC.Rail) * (p.GPU.Rail - p.NIC.Rail))
		}
	}
	var squares int64 // least when all are even
	for _, shares := range []map[rdma.BusAddr]int64{gpus, nics} {
		for _, n := range shares {
			squares += n * n
		}
	}
	return slices.Concat([]int64{int64(len(pairs)), int64(len(gpus))}, classes, []int64{-squares, speed, -astray})
}

// exhaust tries every matching. It knows nothing of flows.
func exhaust(gpus []GPU, nics []NIC, classes map[[2]rdma.BusAddr]Class, limits Limits) []int64 {
	best := merit(nil)
	used := make([]int, len(nics))
	var pairs []Pair
	var choose func(g, from, own int)
	choose = func(g, from, own int) {
		if g == len(gpus) {
			if m := merit(pairs); slices.Compare(m, best) > 0 {
				best = m
			}
			return
		}
		choose(g+1, 0, 0)
		for n := from; n < len(nics) && own < limits.NICsPerGPU; n++ {
			class := classes[[2]rdma.BusAddr{gpus[g].Addr, nics[n].Addr}]
			if used[n] == limits.GPUsPerNIC || class > limits.Worst {
				continue
			}
			used[n]++
			pairs = append(pairs, Pair{gpus[g], nics[n], Path{Class: class}})
			choose(g, n+1, own+1)
			pairs = pairs[:len(pairs)-1]
			used[n]--
		}
	}
	choose(0, 0, 0)
	return best
}

// TestPairIsBest compares with all matchings of thousands of machines. A failure names the seed.
func TestPairIsBest(t *testing.T) {
	const machines = 2000
	for seed := range uint64(machines) {
		r := rand.New(rand.NewPCG(seed, 7))
		limits := Limits{1 + r.IntN(3), 1 + r.IntN(3), []Class{PIX, PXB, P2C, PHB, NODE, SYS}[max(r.IntN(12)-6, 0)]}
		if r.IntN(2) == 0 {
			limits.Worst = SYS
		}
		m := randomMachine(t, r, r.IntN(5), r.IntN(5))
		tree := m.read(t)
		numa := func(a rdma.BusAddr) int {
			f, err := tree.Function(a)
			if err != nil {
				t.Fatal(err)
			}
			return f.NUMA
		}
		classes := map[[2]rdma.BusAddr]Class{}
		for _, g := range m.gpus {
			for _, n := range m.nics {
				class := m.oracle(g, n.Addr, numa)
				classes[[2]rdma.BusAddr{g.Addr, n.Addr}] = class
				if p, err := tree.GPUPath(g, n.Addr); err != nil || p.Class != class {
					t.Fatalf("seed %d: %s to %s is %v, %v; want %v", seed, m.places[g.Addr], m.places[n.Addr], p, err, class)
				}
			}
		}
		got, err := tree.Pair(m.gpus, m.nics, limits)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		checkPairs(t, seed, got, limits)
		if want := exhaust(m.gpus, m.nics, classes, limits); !slices.Equal(merit(got), want) {
			t.Fatalf("seed %d: %v has merit %v, want %v", seed, got, merit(got), want)
		}
		gpus, nics := slices.Clone(m.gpus), slices.Clone(m.nics)
		r.Shuffle(len(gpus), func(i, j int) { gpus[i], gpus[j] = gpus[j], gpus[i] })
		r.Shuffle(len(nics), func(i, j int) { nics[i], nics[j] = nics[j], nics[i] })
		again, err := tree.Pair(gpus, nics, limits)
		if diff := gocmp.Diff(got, again); diff != "" || err != nil {
			t.Fatalf("seed %d: in another order %v, and (-first +then):\n%s", seed, err, diff)
		}
	}
}

// checkPairs holds a matching to the limits.
func checkPairs(t *testing.T, seed uint64, pairs []Pair, limits Limits) {
	t.Helper()
	gpus, nics, both := map[rdma.BusAddr]int{}, map[rdma.BusAddr]int{}, map[[2]rdma.BusAddr]int{}
	for _, p := range pairs {
		gpus[p.GPU.Addr]++
		nics[p.NIC.Addr]++
		both[[2]rdma.BusAddr{p.GPU.Addr, p.NIC.Addr}]++
		if gpus[p.GPU.Addr] > limits.NICsPerGPU || nics[p.NIC.Addr] > limits.GPUsPerNIC || p.Path.Class > limits.Worst ||
			both[[2]rdma.BusAddr{p.GPU.Addr, p.NIC.Addr}] > 1 {
			t.Fatalf("seed %d: %v does not keep to %+v", seed, pairs, limits)
		}
	}
	byAddr := func(a, b Pair) int {
		return cmp.Or(compareAddrs(a.GPU.Addr, b.GPU.Addr), compareAddrs(a.NIC.Addr, b.NIC.Addr))
	}
	if !slices.IsSortedFunc(pairs, byAddr) {
		t.Fatalf("seed %d: %v is in no order", seed, pairs)
	}
}

const two = `
pci0000:00
  0000:00:00.0 root
    0000:01:00.0 gpu GPU0
  0000:00:01.0 root
    0000:02:00.0 nic NIC0
`

func TestPairRefuses(t *testing.T) {
	m := draw(t, two)
	tree := m.read(t)
	g, n := m.gpus[0], m.nics[0]
	for name, tt := range map[string]struct {
		gpus []GPU
		nics []NIC
		want string
	}{
		"GPU twice": {[]GPU{g, {Addr: g.Addr, Name: "again"}}, []NIC{n}, "0000:01:00.0: given twice"},
		"NIC twice": {[]GPU{g}, []NIC{n, n}, "0000:02:00.0: given twice"},
	} {
		t.Run(name, func(t *testing.T) {
			if pairs, err := tree.Pair(tt.gpus, tt.nics, Limits{}); pairs != nil || !errors.Is(err, ErrTwice) || err.Error() != tt.want {
				t.Errorf("%v, %v; want none, %s", pairs, err, tt.want)
			}
		})
	}
}

func TestPairWithoutPlace(t *testing.T) {
	m := draw(t, two)
	tree := m.read(t)
	lost := GPU{Addr: "0000:77:00.0"}
	pairs, err := tree.Pair([]GPU{lost, m.gpus[0]}, append(m.nics, NIC{Addr: "0000:78:00.0"}), Limits{})
	if !errors.Is(err, rdma.ErrNotFound) || !strings.Contains(err.Error(), "0000:77:00.0") || !strings.Contains(err.Error(), "0000:78:00.0") {
		t.Errorf("error %v; want one that names both that are not there", err)
	}
	if len(pairs) != 1 || pairs[0].GPU.Addr != m.gpus[0].Addr || pairs[0].NIC.Addr != m.nics[0].Addr {
		t.Errorf("pairs %v; want the one of those that are", pairs)
	}
}

// A node's worth of virtual functions: 8 GPUs, and 128 for them.
func BenchmarkPairVirtual(b *testing.B) {
	var d strings.Builder
	for s := range 8 {
		fmt.Fprintf(&d, "pci0000:%02x numa=%d\n 0000:%02x:00.0 root\n  0000:%02x:00.0 up\n", 16*s, s/4, 16*s, 16*s+1)
		fmt.Fprintf(&d, "   0000:%02x:00.0 down\n    0000:%02x:00.0 gpu g%d\n", 16*s+2, 16*s+3, s)
		fmt.Fprintf(&d, "   0000:%02x:01.0 down\n", 16*s+2)
		for i := range 16 {
			fmt.Fprintf(&d, "    0000:%02x:%02x.%d nic n%d-%d rail=%d\n", 16*s+4, i/8, i%8, s, i, s)
		}
	}
	m := draw(b, d.String())
	tree := m.read(b)
	for b.Loop() {
		pairs, err := tree.Pair(m.gpus, m.nics, Limits{})
		if err != nil || len(pairs) != 8 || pairs[7].Path.Class != PIX {
			b.Fatal(pairs, err)
		}
	}
}

// BenchmarkPair matches 16 GPUs with 16 NICs, none of which is alone on its switch.
func BenchmarkPair(b *testing.B) {
	var d strings.Builder
	for s := range 4 {
		fmt.Fprintf(&d, "pci0000:%02x numa=%d\n 0000:%02x:00.0 root\n  0000:%02x:00.0 up\n", 16*s, s/2, 16*s, 16*s+1)
		for i := range 8 {
			kind := []string{"gpu", "nic"}[i%2]
			fmt.Fprintf(&d, "   0000:%02x:%02x.0 down\n    0000:%02x:00.0 %s %s%d rail=%d\n", 16*s+2, i, 16*s+3+i, kind, kind, 4*s+i/2, 4*s+(i/2+3)%4)
		}
	}
	m := draw(b, d.String())
	tree := m.read(b)
	for _, k := range []int{1, 4} {
		b.Run(fmt.Sprintf("16x16/each=%d", k), func(b *testing.B) {
			for b.Loop() {
				pairs, err := tree.Pair(m.gpus, m.nics, Limits{NICsPerGPU: k, GPUsPerNIC: k})
				if err != nil || len(pairs) != 16*k {
					b.Fatal(pairs, err)
				}
			}
		})
	}
}
