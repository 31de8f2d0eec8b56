// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/cluster"
)

// shared is the API server of all tests but those that stop theirs.
var shared *apiServer

// childEnv makes the test binary an agent; see kill_test.go.
const childEnv = "RAILYARD_AGENT_TEST_CHILD"

// The main goroutine keeps the main thread: what another one does there to the thread's namespaces is seen as the
// process's, by this and every other process of the machine, for as long as it lives. Go never ends that thread.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	klog.SetOutput(io.Discard)
	klog.LogToStderr(false)
	if args := os.Getenv(childEnv); args != "" {
		os.Exit(child(args))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	threads = takeThreads()
	api, err := newAPI(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared = api
	code := m.Run()
	if err := errors.Join(api.Stop(), leaks()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// leaks finds goroutines that outlived their agents. The connections that the HTTP clients keep are not theirs.
func leaks() error {
	return goleak.Find(
		// client-go's filtered watch sends one more event to a reflector that has stopped.
		goleak.IgnoreTopFunction("k8s.io/apimachinery/pkg/watch.(*filteredWatch).loop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"),
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http/internal/http2.(*ClientConn).readLoop"),
	)
}

// apiServer is a real one with the CRDs and the agents' roles, and an administrator's client.
type apiServer struct {
	*cluster.API
	admin client.Client
}

func newAPI(ctx context.Context) (*apiServer, error) {
	api, err := cluster.StartAPI(ctx, cluster.APIOptions{})
	if err != nil {
		return nil, err
	}
	a := &apiServer{API: api}
	scheme := k8sruntime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if a.admin, err = client.New(api.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		return nil, errors.Join(err, api.Stop())
	}
	if _, err := api.NodeConfig(ctx, "bootstrap"); err != nil { // makes the namespace
		return nil, errors.Join(err, api.Stop())
	}
	if err := api.Apply(ctx, "manifests/crd", "manifests/rbac", "ipam/testdata/crd"); err != nil {
		return nil, errors.Join(err, api.Stop())
	}
	return a, nil
}

// pool makes an accepted pool, as the controller does. Its name is that of the test.
func (s *apiServer) pool(t testing.TB, change func(*v1alpha1.IPPoolSpec)) string {
	t.Helper()
	zero, no := int32(0), false
	p := &v1alpha1.IPPool{
		ObjectMeta: metav1.ObjectMeta{Name: uniqueName(t)},
		Spec: v1alpha1.IPPoolSpec{
			IPv4:            &v1alpha1.Subnet{Subnet: "10.0.0.0/24", BlockSize: 4},
			CooldownSeconds: &zero,
			Watermarks:      &v1alpha1.Watermarks{KeepLast: &no},
		},
	}
	if change != nil {
		change(&p.Spec)
	}
	if err := s.admin.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // its agents have stopped; what they leave would be in the way of the pool's next life
		ctx := context.Background()
		_ = s.admin.DeleteAllOf(ctx, &v1alpha1.IPBlock{}, client.MatchingLabels{v1alpha1.LabelPool: p.Name})
		_ = client.IgnoreNotFound(s.admin.Delete(ctx, p))
	})
	s.accept(t, p.Name)
	return p.Name
}

// accept says that the pool, as it is now, may be leased from.
func (s *apiServer) accept(t testing.TB, name string) {
	t.Helper()
	var p v1alpha1.IPPool
	if err := s.admin.Get(t.Context(), client.ObjectKey{Name: name}, &p); err != nil {
		t.Fatal(err)
	}
	meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted, ObservedGeneration: p.Generation,
	})
	if err := s.admin.Status().Update(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
}

func uniqueName(t testing.TB) string {
	r := strings.NewReplacer("/", "-", "_", "-", " ", "-", ",", "")
	return strings.ToLower(r.Replace(strings.TrimPrefix(t.Name(), "Test")))
}

// blocks are those of a pool.
func (s *apiServer) blocks(t testing.TB, pool string) []ipam.Block {
	t.Helper()
	var l v1alpha1.IPBlockList
	if err := s.admin.List(context.Background(), &l, client.MatchingLabels{v1alpha1.LabelPool: pool}); err != nil {
		t.Fatal(err)
	}
	var out []ipam.Block
	for _, o := range l.Items {
		b, err := o.Block()
		if err != nil {
			t.Error(err)
		}
		out = append(out, b)
	}
	return out
}

// check is the first invariant over the pool, and the agents' own.
func (s *apiServer) check(t testing.TB, pool string, agents ...*running) {
	t.Helper()
	if err := claim.CheckBlocks(s.blocks(t, pool)); err != nil {
		t.Error(err)
	}
	for _, a := range agents {
		cluster.Eventually(t, a.node+"'s agent agrees with the API", func() error { return a.Check(context.Background()) })
	}
}

// noBlocks waits until the last block of the pool is gone.
func (s *apiServer) noBlocks(t testing.TB, pool string) {
	t.Helper()
	cluster.Eventually(t, "no block is left", func() error {
		if b := s.blocks(t, pool); len(b) > 0 {
			return fmt.Errorf("%d blocks are left, the first is %+v", len(b), b[0])
		}
		return nil
	})
}

// running is an agent in this process.
type running struct {
	*Agent
	node, dir string
	stop      func() // ends Run and closes the store; may be called again
}

type agentOptions struct {
	api    *apiServer
	dir    string // of the store; a new one if empty
	config func(*Config)
	client func(client.Client) client.Client
	boot   string
	cfg    *rest.Config // of the node; asked for if nil, which needs the API
}

// start runs an agent until the test ends or stop is called.
func start(t testing.TB, node string, o agentOptions) *running {
	t.Helper()
	if o.api == nil {
		o.api = shared
	}
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	cfg := o.cfg
	if cfg == nil {
		var err error
		if cfg, err = o.api.NodeConfig(context.Background(), node); err != nil {
			t.Fatal(err)
		}
	}
	api, cache, err := Connect(cfg, node)
	if err != nil {
		t.Fatal(err)
	}
	if o.client != nil {
		api = o.client(api)
	}
	so, err := store.SystemOptions()
	if err != nil {
		t.Fatal(err)
	}
	if o.boot != "" {
		so.BootID = o.boot
	}
	lock, cancelLock := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancelLock()
	st, err := store.Open(lock, filepath.Join(o.dir, "ipam.db"), so)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Node: node, Store: st, Client: api, Cache: cache, Log: testLogger(t, node),
		GCInterval: time.Hour, MirrorInterval: time.Hour, ReleaseAfter: time.Hour, NamespaceDirs: []string{},
	}
	if o.config != nil {
		o.config(&c)
	}
	if c.places == nil { // the processes of the machine, whose addresses may be the pool's, are for the tests that ask for them
		c.places = named(c.NamespaceDirs)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r := &running{Agent: a, node: node, dir: o.dir}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run of %s: %v", node, err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// testLogger shows the log of a test that fails.
func testLogger(t testing.TB, node string) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node)
	}
	return slog.New(slog.DiscardHandler)
}

func request(pool, id string) ipam.Request {
	return ipam.Request{Pool: pool, Key: ipam.Key{Network: "net", ContainerID: id, IfName: "net1"}}
}

func mustLease(t testing.TB, a ipam.Leaser, req ipam.Request) ipam.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := a.Lease(ctx, req)
	if err != nil {
		t.Fatalf("Lease(%s): %v", req.Key.ContainerID, err)
	}
	return l
}

func mustRelease(t testing.TB, a ipam.Leaser, id string) {
	t.Helper()
	if err := a.Release(context.Background(), ipam.Key{Network: "net", ContainerID: id, IfName: "net1"}); err != nil {
		t.Fatalf("Release(%s): %v", id, err)
	}
}

func addrs(l ipam.Lease) []string {
	var out []string
	for _, a := range l.Addresses {
		out = append(out, a.Prefix.Addr().String())
	}
	return out
}

// ledger is who holds what, as those know who were answered.
type ledger struct {
	t    testing.TB
	mu   sync.Mutex
	live map[netip.Addr]string
}

func newLedger(t testing.TB) *ledger { return &ledger{t: t, live: map[netip.Addr]string{}} }

// gave records an answer to a new lease; two live leases of one address fail the test.
func (l *ledger) gave(who string, lease ipam.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range lease.Addresses {
		addr := a.Prefix.Addr()
		if other, ok := l.live[addr]; ok && other != who {
			l.t.Errorf("%s is leased to %s and to %s", addr, other, who)
		}
		l.live[addr] = who
	}
}

// ends is called before the release of a lease.
func (l *ledger) ends(lease ipam.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range lease.Addresses {
		delete(l.live, a.Prefix.Addr())
	}
}
