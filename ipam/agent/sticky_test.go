// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// sticky has the pool's addresses follow both kinds of holders.
func sticky(s *v1alpha1.IPPoolSpec) {
	s.Sticky = &v1alpha1.Sticky{For: []string{v1alpha1.HolderIPAMClaim, v1alpha1.HolderStatefulSet}}
}

// impatient does not wait long for who uses what is asked for.
func impatient(c *Config) { c.CedeWait = time.Millisecond }

// pod makes a pod in the API, which nothing runs, in place of one of the name.
func (s *apiServer) newPod(t testing.TB, name string, change func(*corev1.Pod)) ipam.Pod {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "none", Image: "none.invalid/none"}}},
	}
	change(p)
	pods := s.Client().CoreV1().Pods("default")
	now := int64(0)
	_ = pods.Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	is, err := pods.Create(context.Background(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pods.Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}) })
	return ipam.Pod{Namespace: "default", Name: name, UID: string(is.UID)}
}

// ofSet makes it a pod of a StatefulSet.
func ofSet(set string) func(*corev1.Pod) {
	yes := true
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: set, UID: "uid-of-" + "set", Controller: &yes}}
	}
}

// naming makes it a pod that names an IPAMClaim for its second attachment.
func naming(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{nadv1.NetworkAttachmentAnnot: fmt.Sprintf(`[{"name":"other"},{"name":"rail","ipam-claim-reference":%q}]`, claim)}
	}
}

func stickyRequest(pool, id string, pod ipam.Pod) ipam.Request {
	r := request(pool, id)
	r.Pod = pod
	return r
}

// reservations are those of a pool.
func (s *apiServer) reservations(t testing.TB, pool string) []v1alpha1.IPReservation {
	t.Helper()
	var l v1alpha1.IPReservationList
	if err := s.admin.List(context.Background(), &l, client.MatchingLabels{v1alpha1.LabelPool: pool}); err != nil {
		t.Fatal(err)
	}
	return l.Items
}

// unreserve removes the pool's reservations with their holds, as the controller does with those of holders that are gone.
func (s *apiServer) unreserve(t testing.TB, pool string) {
	t.Helper()
	for _, r := range s.reservations(t, pool) {
		r.Finalizers = nil
		if err := errors.Join(s.admin.Update(context.Background(), &r), s.admin.Delete(context.Background(), &r)); err != nil {
			t.Error(err)
		}
	}
}

// idle waits until no node uses a reservation of the pool.
func (s *apiServer) idle(t testing.TB, pool string) {
	t.Helper()
	cluster.Eventually(t, "nobody uses a reservation", func() error {
		for _, r := range s.reservations(t, pool) {
			if r.Spec.User != nil {
				return fmt.Errorf("%s is used: %+v", r.Name, r.Spec.User)
			}
		}
		return nil
	})
}

// held are the addresses that the pool's blocks hold for reservations.
func (s *apiServer) held(t testing.TB, pool string) []string {
	t.Helper()
	var out []string
	for _, b := range s.blocks(t, pool) {
		for _, x := range b.Shares {
			if _, ok := x.ReservedFor(); ok {
				for _, r := range x.Ranges {
					out = append(out, r.String())
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestStatefulSetKeepsItsAddress(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/28", BlockSize: 4}
		s.IPv6 = &v1alpha1.Subnet{Subnet: "fd00:2::/112", BlockSize: 4}
		sticky(s)
	})
	t.Cleanup(func() { shared.unreserve(t, pool) })
	n := nodes(t, 2, agentOptions{config: impatient})
	name := uniqueName(t) + "-0"
	first := mustLease(t, n[0], stickyRequest(pool, "first", shared.newPod(t, name, ofSet("db"))))
	if len(first.Addresses) != 2 || first.Reservation == "" {
		t.Fatalf("Lease gave %+v", first)
	}
	if again := mustLease(t, n[0], stickyRequest(pool, "first", ipam.Pod{Namespace: "default", Name: name})); !slices.Equal(addrs(again), addrs(first)) {
		t.Errorf("repeated: %v, want %v", addrs(again), addrs(first))
	}
	if got := shared.held(t, pool); !slices.Equal(got, addrs(first)) {
		t.Errorf("the blocks hold %v, want %v", got, addrs(first))
	}
	// The set's controller replaces the pod on another node before the first is really gone.
	second := stickyRequest(pool, "second", shared.newPod(t, name, ofSet("db")))
	if _, err := n[1].Lease(t.Context(), second); !errors.Is(err, ipam.ErrTaken) || !strings.Contains(err.Error(), "on node "+n[0].node) {
		t.Errorf("a second pod: %v", err)
	}
	mustRelease(t, n[0], "first")
	shared.idle(t, pool)
	if got := shared.held(t, pool); !slices.Equal(got, addrs(first)) {
		t.Errorf("while no pod runs the blocks hold %v, want %v", got, addrs(first))
	}
	// All the others are for pods that follow nobody; the reserved ones are not.
	for i := range 13 {
		l := mustLease(t, n[i%2], stickyRequest(pool, fmt.Sprint("other-", i), ipam.Pod{}))
		for _, a := range addrs(l) {
			if slices.Contains(addrs(first), a) {
				t.Errorf("%s is reserved, and was leased", a)
			}
		}
	}
	if _, err := n[0].Lease(t.Context(), stickyRequest(pool, "too-many", ipam.Pod{})); !errors.Is(err, ipam.ErrPoolFull) {
		t.Errorf("a pod more than the pool has addresses: %v", err)
	}
	if got := mustLease(t, n[1], second); !slices.Equal(addrs(got), addrs(first)) {
		t.Errorf("after the move: %v, want %v", addrs(got), addrs(first))
	}
	shared.check(t, pool, n...)
}

func TestIPAMClaim(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/27", BlockSize: 8, Reserved: []v1alpha1.AddressRange{"10.0.0.20-10.0.0.22"}}
		sticky(s)
	})
	t.Cleanup(func() { shared.unreserve(t, pool) })
	n := nodes(t, 2, agentOptions{config: impatient})
	name := uniqueName(t)
	vm := func(pod, claim string) ipam.Request {
		r := stickyRequest(pool, pod, shared.newPod(t, name+"-"+pod, naming(claim)))
		r.Key.IfName = "net2"
		return r
	}
	if _, err := n[0].Lease(t.Context(), vm("early", name)); !errors.Is(err, ipam.ErrInvalid) || !strings.Contains(err.Error(), "there is no IPAMClaim") {
		t.Errorf("without the claim: %v", err)
	}
	shared.claim(t, name)
	shared.claim(t, name+"-static", "10.0.0.21/27")
	first := mustLease(t, n[0], vm("a", name))
	// Another interface of the pod is no matter of the claim.
	plain := stickyRequest(pool, "a", shared.newPod(t, name+"-a", naming(name)))
	if got := mustLease(t, n[0], plain); got.Reservation != "" || slices.Equal(addrs(got), addrs(first)) {
		t.Errorf("net1: %+v", got)
	}
	if _, err := n[0].Lease(t.Context(), vm("b", name)); !errors.Is(err, ipam.ErrTaken) || !strings.Contains(err.Error(), name+"-a") {
		t.Errorf("a second VM of the claim on the same node: %v", err)
	}
	if err := n[0].Release(t.Context(), ipam.Key{Network: "net", ContainerID: "a", IfName: "net2"}); err != nil {
		t.Fatal(err)
	}
	shared.idle(t, pool)
	if got := mustLease(t, n[1], vm("c", name)); !slices.Equal(addrs(got), addrs(first)) {
		t.Errorf("on the other node: %v, want %v", addrs(got), addrs(first))
	}
	if got := addrs(mustLease(t, n[1], vm("d", name+"-static"))); !slices.Equal(got, []string{"10.0.0.21"}) {
		t.Errorf("the claim's ipRequests: got %v", got)
	}
	shared.check(t, pool, n...)
}

// claim makes an IPAMClaim.
func (s *apiServer) claim(t testing.TB, name string, asked ...any) {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"network": "rail", "interface": "net2", "ipRequests": asked}}}
	o.SetGroupVersionKind(claimKind)
	o.SetNamespace("default")
	o.SetName(name)
	if err := s.admin.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.admin.Delete(context.Background(), o) })
}

// The addresses go from node to node over bad lines and under restarts, and are never in two pods.
func TestStickyOverABadLine(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/27", BlockSize: 4}
		sticky(s)
	})
	t.Cleanup(func() { shared.unreserve(t, pool) })
	o := agentOptions{
		config: func(c *Config) { c.CedeWait = 300 * time.Millisecond },
		client: func(c client.Client) client.Client { return faulty{c, 0.3} },
	}
	n := nodes(t, 3, o)
	book := newLedger(t)
	var mu sync.Mutex // of the agents, which are replaced
	agent := func(i int) *running { mu.Lock(); defer mu.Unlock(); return n[i] }
	var holders, restarts sync.WaitGroup
	moves := 12
	if testing.Short() {
		moves = 4
	}
	for h := range 4 {
		holders.Go(func() {
			name := fmt.Sprintf("%s-%d", uniqueName(t), h)
			var had []string
			for m := range moves {
				pod := shared.newPod(t, name, ofSet("db"))
				i, req := rand.IntN(len(n)), stickyRequest(pool, fmt.Sprintf("%s-%d", name, m), pod)
				var l ipam.Lease
				cluster.Eventually(t, "the pod starts", func() (err error) {
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					defer cancel()
					l, err = agent(i).Lease(ctx, req)
					return err
				})
				book.gave(req.Key.ContainerID, l)
				if had != nil && !slices.Equal(had, addrs(l)) {
					t.Errorf("%s has %v, and had %v before", name, addrs(l), had)
				}
				had = addrs(l)
				book.ends(l)
				cluster.Eventually(t, "the pod ends", func() error { return agent(i).Release(context.Background(), req.Key) })
			}
		})
	}
	stop := make(chan struct{})
	restarts.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond):
			}
			i := rand.IntN(len(n))
			mu.Lock()
			n[i].stop()
			again := o
			again.dir = n[i].dir
			n[i] = start(t, n[i].node, again)
			mu.Unlock()
		}
	})
	holders.Wait()
	close(stop)
	restarts.Wait()
	shared.idle(t, pool)
	if got := shared.held(t, pool); len(got) != 4 {
		t.Errorf("the blocks hold %v, for four holders", got)
	}
	shared.check(t, pool, n...)
}

// A store that is lost under a live pod gets the pod's addresses back with their reservation; one of a reboot gives the use up.
func TestStickyWithAFreshStore(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, sticky)
	t.Cleanup(func() { shared.unreserve(t, pool) })
	node := uniqueName(t)
	a := start(t, node, agentOptions{config: impatient})
	live, dead := shared.newPod(t, node+"-0", ofSet("db")), shared.newPod(t, node+"-1", ofSet("db"))
	req := stickyRequest(pool, "live", live)
	req.NetNS = ipam.NetNS{Path: "/run/netns/live", Dev: 4, Ino: 7}
	kept := mustLease(t, a, req)
	mustLease(t, a, stickyRequest(pool, "dead", dead))
	a.stop()
	ns := lone{addr: kept.Addresses[0].Prefix.Addr(), ns: req.NetNS}
	a = start(t, node, agentOptions{config: func(c *Config) { impatient(c); c.Namespaces = ns }})
	other := start(t, node+"-other", agentOptions{config: impatient})
	cluster.Eventually(t, "only the live pod's use is left", func() error {
		for _, r := range shared.reservations(t, pool) {
			if used, want := r.Spec.User != nil, r.Spec.Holder.Pod == live.Name; used != want {
				return fmt.Errorf("%s: used %v", r.Name, used)
			}
		}
		return nil
	})
	if _, err := other.Lease(t.Context(), stickyRequest(pool, "again", live)); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("elsewhere while it lives: %v", err)
	}
	mustLease(t, other, stickyRequest(pool, "dead-again", dead))
	if got := mustLease(t, a, req); !slices.Equal(addrs(got), addrs(kept)) {
		t.Errorf("repeated: %v, want %v", addrs(got), addrs(kept))
	}
	shared.check(t, pool, a, other)
}

// lone is a node on which one namespace has one address.
type lone struct {
	addr netip.Addr
	ns   ipam.NetNS
}

func (l lone) Gone(ipam.NetNS) bool { return false }
func (l lone) InUse(context.Context) ([]InUse, error) {
	return []InUse{{Addr: l.addr, IfName: "net1", NetNS: l.ns}}, nil
}
