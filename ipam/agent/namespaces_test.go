// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// newNetNS makes a named network namespace in dir, as a runtime does, with an address on its loopback link.
func newNetNS(t testing.TB, dir, name string, addresses ...string) (path string, remove func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces are made by root: run the tests as root")
	}
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer nl.Close()
			if err := addTo(nl, addresses); err != nil {
				return err
			}
			return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	remove = func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Error(err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	t.Cleanup(remove)
	return path, remove
}

// addTo gives addresses to the loopback link of a namespace.
func addTo(nl *netlink.Handle, addresses []string) error {
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, a := range addresses {
		ip := netip.MustParseAddr(a)
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}}
		if err := nl.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("add %s: %w", a, err)
		}
	}
	return nil
}

// newProcess makes a process in a network namespace of its own, without a name, with an address on its loopback link.
// Its subnet is like no other process's, so that this test may run twice on a machine.
func newProcess(t testing.TB) (path, subnet, address string, end func()) {
	t.Helper()
	cmd := exec.Command("cat") // which ends with its input, so with us
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	path = fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	h, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	nl, err := netlink.NewHandleAt(h, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	prefix := fmt.Sprintf("fd77:0:%x:%x::", cmd.Process.Pid>>16, cmd.Process.Pid&0xffff)
	subnet, address = prefix+"/126", prefix+"1"
	if err := addTo(nl, []string{address}); err != nil {
		t.Fatal(err)
	}
	return path, subnet, address, end
}

// threads are what goroutines can run on, found by taking as many as there are at once, before any is busy for long.
var threads []int

func takeThreads() (tids []int) {
	const n = 200
	tid, release := make(chan int), make(chan struct{})
	for range n {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tid <- unix.Gettid()
			<-release
		}()
	}
	for range n {
		tids = append(tids, <-tid)
	}
	close(release)
	return tids
}

// TestMainThread: what a test does to a thread's namespaces is never done to the process's, which all agents look at.
func TestMainThread(t *testing.T) {
	t.Parallel()
	if slices.Contains(threads, os.Getpid()) {
		t.Error("a goroutine ran on the main thread")
	}
}

// TestMovingProcess: a process, here a thread, that changes its namespace while it is looked at. What is found in a
// namespace is never said of another.
func TestMovingProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := map[netip.Addr]nsID{}
	var handles []netns.NsHandle
	for _, a := range []string{"10.77.0.2", "10.77.0.3"} {
		path, _ := newNetNS(t, dir, a, a)
		n, err := ipam.StatNetNS(path)
		if err != nil {
			t.Fatal(err)
		}
		want[netip.MustParseAddr(a)] = idOf(n)
		h, err := netns.GetFromPath(path)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		handles = append(handles, h)
	}
	tid, stop, ended := make(chan int), make(chan struct{}), make(chan error)
	defer func() {
		close(stop)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	go func() {
		runtime.LockOSThread() // and never unlocked, as above
		err := netns.Set(handles[0])
		tid <- unix.Gettid()
		for i := 1; err == nil && !closed(stop); i++ {
			err = netns.Set(handles[i%2])
		}
		ended <- err
	}()
	place := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), <-tid)
	for range 300 {
		got, err := addressesInUse(t.Context(), []string{place})
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, f := range got {
			id, ok := want[f.addr]
			if !ok {
				continue // 127.0.0.1
			}
			seen++
			if idOf(f.netns) != id {
				t.Fatalf("%s is found in namespace %v, want %v", f.addr, idOf(f.netns), id)
			}
		}
		if seen != 1 {
			t.Errorf("found %+v, want one of %v", got, want)
		}
	}
}

// TestAnswerLostOnABusyMachine: a claim's answer is lost and the agent starts again, while a process without a named
// namespace has one of the addresses. It is the process's for as long as that lives, and then the block goes back. An
// agent that does not look at the machine's processes, as in all other tests, takes nothing from what runs there.
func TestAnswerLostOnABusyMachine(t *testing.T) {
	t.Parallel()
	for _, looks := range []bool{true, false} {
		t.Run(fmt.Sprint(looks), func(t *testing.T) {
			t.Parallel()
			path, subnet, inUse, end := newProcess(t)
			pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
				s.IPv4, s.IPv6 = nil, &v1alpha1.Subnet{Subnet: subnet, BlockSize: 4}
			})
			node := uniqueName(t)
			config := func(c *Config) {
				c.GCInterval, c.GCGrace, c.ReleaseAfter = 20*time.Millisecond, 20*time.Millisecond, time.Nanosecond
				if looks {
					c.places = places(nil)
				}
			}
			var left atomic.Int64
			left.Store(1)
			dead, once := make(chan struct{}), &sync.Once{}
			a := start(t, node, agentOptions{config: config, client: func(c client.Client) client.Client { return mortal{c, &left, true, dead, once} }})
			if l, err := a.Lease(t.Context(), request(pool, "unanswered")); err == nil {
				t.Errorf("Lease: %v, want the claim to have no answer", l)
			}
			a.stop()
			if n := len(shared.blocks(t, pool)); n != 1 {
				t.Fatalf("%d blocks, want the one whose claim was not answered", n)
			}
			b := start(t, node, agentOptions{config: config, dir: a.dir})
			if looks {
				cluster.Eventually(t, "the address in use is leased", func() error {
					switch leases, err := b.store.Leases(); {
					case err != nil:
						return err
					case len(leases) != 1 || !slices.Equal(addrs(leases[0]), []string{inUse}) || leases[0].NetNS.Path != path:
						return fmt.Errorf("leases are %+v, want %s in %s", leases, inUse, path)
					}
					return nil
				})
				if got := addrs(mustLease(t, b, request(pool, "other"))); slices.Contains(got, inUse) {
					t.Errorf("Lease: %v, which is in use", got)
				}
				mustRelease(t, b, "other")
				shared.check(t, pool, b)
				if n := len(shared.blocks(t, pool)); n != 1 {
					t.Errorf("%d blocks while the process lives, want 1", n)
				}
				end()
			}
			shared.noBlocks(t, pool)
			shared.check(t, pool, b)
		})
	}
}

func TestAddressesInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, _ := newNetNS(t, dir, "one", "10.77.0.1", "fd77::1")
	if err := os.WriteFile(filepath.Join(dir, "no-namespace"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := addressesInUse(t.Context(), places([]string{dir, dir}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10.77.0.1", "fd77::1"} {
		n := 0
		for _, f := range got {
			if f.addr.String() == want {
				n++
				if f.netns.Path != path || f.ifName != "lo" {
					t.Errorf("%s is found in %s on %s, want %s on lo", want, f.netns.Path, f.ifName, path)
				}
			}
		}
		if n != 1 {
			t.Errorf("%s is found %d times, want once", want, n)
		}
	}
}

func TestLeaseEndsWithItsNamespace(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, nil)
	a := start(t, "collector", agentOptions{config: func(c *Config) {
		c.GCInterval, c.GCGrace, c.ReleaseAfter = 20*time.Millisecond, 50*time.Millisecond, time.Nanosecond
	}})
	dir := t.TempDir()
	lease := func(name string) (remove func()) {
		path, remove := newNetNS(t, dir, name)
		req := request(pool, name)
		var err error
		if req.NetNS, err = ipam.StatNetNS(path); err != nil {
			t.Fatal(err)
		}
		mustLease(t, a, req)
		return remove
	}
	endA, endB := lease("a"), lease("b")
	endA()
	cluster.Eventually(t, "the lease of the namespace that is gone ends", func() error {
		if _, err := a.Lookup(t.Context(), request(pool, "a").Key); !errors.Is(err, ipam.ErrNotFound) {
			return fmt.Errorf("Lookup: %w", err)
		}
		return nil
	})
	if _, err := a.Lookup(t.Context(), request(pool, "b").Key); err != nil {
		t.Errorf("the lease of a live namespace: %v", err)
	}
	endB()
	shared.noBlocks(t, pool)
	shared.check(t, pool, a)
}

// TestStoreLostUnderLivePods: the store is gone, the namespaces and the API are not.
func TestStoreLostUnderLivePods(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, func(s *v1alpha1.IPPoolSpec) {
		s.IPv4 = &v1alpha1.Subnet{Subnet: "10.0.0.0/29", BlockSize: 4} // .1 to .6
	})
	spaces := t.TempDir()
	o := agentOptions{config: func(c *Config) {
		c.NamespaceDirs = []string{spaces}
		c.MirrorInterval = 20 * time.Millisecond
		c.GCInterval, c.GCGrace, c.ReleaseAfter = 20*time.Millisecond, 20*time.Millisecond, time.Nanosecond
	}}
	a := start(t, "amnesia", o)
	known := mustLease(t, a, request(pool, "known"))
	cluster.Eventually(t, "the lease is mirrored", func() error {
		_, _, err := a.read(t.Context(), shared.blocks(t, pool)[0].Name)
		obj, _, err2 := a.read(t.Context(), shared.blocks(t, pool)[0].Name)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if len(obj.Status.Leases) != 1 {
			return fmt.Errorf("status is %+v", obj.Status)
		}
		return nil
	})
	unknown := mustLease(t, a, request(pool, "unknown"))
	a.stop()
	newNetNS(t, spaces, "known", addrs(known)...)
	_, endUnknown := newNetNS(t, spaces, "unknown", addrs(unknown)...)
	if err := os.Remove(filepath.Join(a.dir, "ipam.db")); err != nil {
		t.Fatal(err)
	}
	b := start(t, "amnesia", o) // a new store in a new folder
	var given []string
	for i := 0; ; i++ {
		l, err := b.Lease(t.Context(), request(pool, fmt.Sprint("new-", i)))
		if errors.Is(err, ipam.ErrPoolFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		given = append(given, addrs(l)...)
	}
	if len(given) != 4 || slices.Contains(given, addrs(known)[0]) || slices.Contains(given, addrs(unknown)[0]) {
		t.Errorf("given %v, want the 4 addresses that are neither %v nor %v", given, addrs(known), addrs(unknown))
	}
	l, err := b.Lookup(t.Context(), request(pool, "known").Key)
	if err != nil || !slices.Equal(addrs(l), addrs(known)) {
		t.Errorf("Lookup of what the mirror knew: %v, %v; want %v", addrs(l), err, addrs(known))
	}
	shared.check(t, pool, b)
	// What nobody remembers ends with its namespace.
	endUnknown()
	cluster.Eventually(t, "the recovered lease ends", func() error {
		leases, err := b.store.Leases()
		if n := len(leases); err != nil || n != 5 {
			return fmt.Errorf("%d leases, %w", n, err)
		}
		return nil
	})
}

// TestRecoveredLeaseIsNobodysNetwork: nobody remembers the attachment, whose link has addresses of two pools. CNI's
// GC of no network ends its leases.
func TestRecoveredLeaseIsNobodysNetwork(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, nil)
	six := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: pool + "6"}, Spec: v1alpha1.IPPoolSpec{IPv6: &v1alpha1.Subnet{Subnet: "fd00:6::/64"}}}
	if err := shared.admin.Create(t.Context(), six); err != nil {
		t.Fatal(err)
	}
	shared.accept(t, six.Name)
	spaces := t.TempDir()
	o := agentOptions{config: func(c *Config) { c.NamespaceDirs = []string{spaces} }}
	a := start(t, "nobodys", o)
	used := append(addrs(mustLease(t, a, request(pool, "four"))), addrs(mustLease(t, a, request(six.Name, "six")))...)
	a.stop()
	newNetNS(t, spaces, "pod", used...)
	if err := os.Remove(filepath.Join(a.dir, "ipam.db")); err != nil {
		t.Fatal(err)
	}
	b := start(t, "nobodys", o)
	mustLease(t, b, request(pool, "other"))
	for _, network := range []string{"net", "recovered"} {
		if _, err := b.Retain(t.Context(), network, nil); err != nil {
			t.Fatal(err)
		}
	}
	var still []string
	leases, err := b.store.Leases()
	for _, l := range leases {
		still = append(still, addrs(l)...)
	}
	slices.Sort(still)
	if slices.Sort(used); err != nil || !slices.Equal(still, used) {
		t.Errorf("leased are %v, %v, want %v", still, err, used)
	}
}

// TestMountsThatDoNotArrive: in a mount namespace without propagation, a living namespace is an empty file.
func TestMountsThatDoNotArrive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cut, seen, gone := make(chan error), make(chan ipam.NetNS), make(chan bool)
	go func() {
		runtime.LockOSThread() // and never unlocked, as above
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		cut <- err
		for n := range seen {
			gone <- goneForGood(n, nil)
		}
	}()
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
	defer close(seen)
	path, remove := newNetNS(t, dir, "pod")
	n, err := ipam.StatNetNS(path)
	if err != nil {
		t.Fatal(err)
	}
	if seen <- n; <-gone {
		t.Error("a namespace whose mount does not arrive is held to be gone")
	}
	if remove(); !goneForGood(n, nil) {
		t.Error("a namespace that is gone is held to be there")
	}
}

// TestProcessEndsBeforeItsNamespace: known by a process's or thread's path, alive under a name or in another process.
func TestProcessEndsBeforeItsNamespace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, _ := newNetNS(t, dir, "pod")
	named, err := ipam.StatNetNS(path)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := ipam.StatNetNS("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/proc/4194305/ns/net", "/proc/4194305/task/4194306/ns/net"} {
		own, n := proc, proc
		own.Path, n.Path = p, p
		n.Dev, n.Ino = named.Dev, named.Ino
		if goneForGood(own, places(nil)) || goneForGood(n, places([]string{dir})) {
			t.Errorf("%s: a living namespace is held to be gone", p)
		}
		if n.Ino = 1; !goneForGood(n, places([]string{dir})) { // no namespace has it
			t.Errorf("%s: a namespace that is gone is held to live", p)
		}
	}
}

// TestReboot: another boot, no namespaces, and the same blocks.
func TestReboot(t *testing.T) {
	t.Parallel()
	pool := shared.pool(t, nil)
	a := start(t, "reboot", agentOptions{boot: "first"})
	mustLease(t, a, request(pool, "x"))
	before := shared.blocks(t, pool)
	a.stop()
	b := start(t, "reboot", agentOptions{boot: "second", dir: a.dir})
	mustLease(t, b, request(pool, "y"))
	after := shared.blocks(t, pool)
	if len(before) != len(after) || before[0].Shares[0].Session == after[0].Shares[0].Session {
		t.Errorf("blocks after the reboot: %+v, want those from before, %+v, with the new session", after, before)
	}
	shared.check(t, pool, b)
}
