// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/compat/pools"
)

// ErrNotReady: the plan has something that forbids to begin; nothing was changed, or all pools are still closed.
var ErrNotReady = errors.New("not ready to migrate")

// maxLooks bounds how often more addresses in use are found.
const maxLooks = 20

// Options are those of a migration; zero fields stand for their defaults.
type Options struct {
	// Namespace and Account are of the service account of whereabouts' CNI program: kube-system, whereabouts.
	Namespace, Account string
	// Settle is the time between the two looks that must find the same before a pool is opened (5 s): longer than
	// any request of the old management can still be under way.
	Settle time.Duration
	// Accept is how long to wait for the controller's word on a new pool (30 s).
	Accept time.Duration
}

// source is an old address management.
type source interface {
	// read adds to s what its objects say.
	read(ctx context.Context, api client.Client, s *state) error
	// gives says why the pod shows that addresses are still given; empty if it does not.
	gives(p *corev1.Pod) string
}

// Migration takes over the addresses of one source.
type Migration struct {
	api  client.Client
	name string
	from source
	Options
}

// AddToScheme registers the kinds that the client's scheme must know.
func AddToScheme(s *runtime.Scheme) error {
	return errors.Join(clientgoscheme.AddToScheme(s), nadv1.AddToScheme(s), v1alpha1.AddToScheme(s))
}

// New makes a migration from compat.TypeWhereabouts or compat.TypeNVIPAM. The client must not have a cache.
func New(api client.Client, from string, o Options) (*Migration, error) {
	m := &Migration{api: api, name: from, Options: o}
	if m.Settle <= 0 {
		m.Settle = 5 * time.Second
	}
	if m.Accept <= 0 {
		m.Accept = 30 * time.Second
	}
	switch from {
	case compat.TypeWhereabouts:
		w := whereabouts{"kube-system", "whereabouts"}
		if o.Namespace != "" {
			w.namespace = o.Namespace
		}
		if o.Account != "" {
			w.account = o.Account
		}
		m.from = w
	case compat.TypeNVIPAM:
		m.from = nvIPAM{}
	default:
		return nil, &ipam.FieldError{Field: "from", Detail: fmt.Sprintf("is %.40q: write one of %s", from, strings.Join(compat.Types(), ", "))}
	}
	return m, nil
}

// Plan says what Apply would do now. It changes nothing.
func (m *Migration) Plan(ctx context.Context) (Plan, error) {
	s, err := m.read(ctx)
	if err != nil {
		return Plan{}, err
	}
	return decide(m.name, s), nil
}

// Apply makes the pools, fences what is in use, and opens the pools after two looks that found the same. A pool that the
// controller does not accept stays closed, and the error says so when all others are open. It may be repeated.
func (m *Migration) Apply(ctx context.Context) (Plan, error) {
	before := ""
	given := map[string]bool{} // the shares that this run has written; their nodes may have returned them since
	for look := range maxLooks {
		p, err := m.Plan(ctx)
		if err == nil {
			err = p.ready()
		}
		if err != nil {
			return p, err
		}
		if look > 0 && p.found() == before && p.fenced(given) {
			return p, m.open(ctx, p)
		}
		// A node looks after the addresses of its share at once, so it gets one only when the last request of the old
		// management has long ended.
		if err := m.fence(ctx, p, look > 0, given); err != nil {
			return p, err
		}
		before = p.found()
		select {
		case <-ctx.Done():
			return p, context.Cause(ctx)
		case <-time.After(m.Settle):
		}
	}
	return Plan{}, fmt.Errorf("%w: %d looks found more addresses in use each time: something still gives addresses", ErrNotReady, maxLooks)
}

// ready is nil if nothing forbids to begin.
func (p Plan) ready() error {
	if all := slices.Concat(p.Giving, p.Problems); len(all) > 0 {
		return fmt.Errorf("%w:\n  %s", ErrNotReady, strings.Join(all, "\n  "))
	}
	return nil
}

// fenced says that every pool is there, with all that is in use.
func (p Plan) fenced(given map[string]bool) bool {
	return !slices.ContainsFunc(p.Pools, func(x Pool) bool {
		return x.State == StateNew || x.State == StateClosed && (x.Missing > 0 || len(x.pending(given)) > 0)
	})
}

// pending are the shares that have not been given.
func (p Pool) pending(given map[string]bool) []Share {
	return slices.DeleteFunc(slices.Clone(p.Shares), func(s Share) bool { return given[p.key(s)] })
}

func (p Pool) key(s Share) string { return fmt.Sprint(p.Object.Name, " ", s.Node, " ", s.Ranges) }

// fence makes the pools, closed, and writes the holds, and the nodes' shares if it is their time.
func (m *Migration) fence(ctx context.Context, p Plan, nodes bool, given map[string]bool) error {
	for _, pool := range p.Pools {
		if pool.State == StateNew {
			pools.Close(pool.Object)
			err := m.api.Create(ctx, pool.Object)
			if apierrors.IsAlreadyExists(err) {
				continue // the controller was faster: the next look decides about what it has made
			}
			if err != nil {
				return fmt.Errorf("create IPPool %s: %w", pool.Object.Name, err)
			}
		}
		if pool.State == StateOpen || pool.State == StateRefused {
			continue
		}
		err := m.accepted(ctx, pool.Object)
		if errors.Is(err, errRefused) {
			continue
		}
		if err != nil {
			return err
		}
		var shares []Share
		if nodes {
			shares = pool.pending(given)
		}
		for slot, x := range pool.fences(shares) {
			if err := m.fenceSlot(ctx, pool.Object, slot, x); err != nil {
				return err
			}
		}
		for _, s := range shares {
			given[pool.key(s)] = true
		}
	}
	return nil
}

func (m *Migration) fenceSlot(ctx context.Context, pool *v1alpha1.IPPool, slot netip.Prefix, shares []ipam.Share) error {
	b := ipam.Block{Name: ipam.BlockName(pool.Name, slot), Pool: pool.Name, PoolUID: string(pool.UID), Slot: slot}
	again := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	err := retry.OnError(retry.DefaultBackoff, again, func() error {
		var obj v1alpha1.IPBlock
		err := m.api.Get(ctx, client.ObjectKey{Name: b.Name}, &obj)
		if apierrors.IsNotFound(err) {
			next, _ := fence(b, shares)
			return m.api.Create(ctx, v1alpha1.FromBlock(next))
		}
		if err != nil {
			return err
		}
		cur, err := obj.Block()
		if err != nil {
			return err
		}
		if cur.PoolUID != b.PoolUID {
			return fmt.Errorf("%w: it is of another pool of that name, which is gone", ErrNotReady)
		}
		next, changed := fence(cur, shares)
		if !changed {
			return nil
		}
		obj.SetShares(next)
		return m.api.Update(ctx, &obj)
	})
	if err != nil {
		return fmt.Errorf("fence addresses in IPBlock %s: %w", b.Name, err)
	}
	return nil
}

// errRefused: the controller does not accept the pool.
var errRefused = errors.New("not accepted")

// accepted waits for the controller's word on the pool.
func (m *Migration) accepted(ctx context.Context, pool *v1alpha1.IPPool) error {
	var c *metav1.Condition
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, m.Accept, true, func(ctx context.Context) (bool, error) {
		if err := m.api.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return false, err
		}
		c = meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionAccepted)
		return c != nil && c.ObservedGeneration == pool.Generation, nil
	})
	switch {
	case wait.Interrupted(err):
		return fmt.Errorf("%w: nobody has judged IPPool %s: is railyard-controller running?", ErrNotReady, pool.Name)
	case err != nil:
		return fmt.Errorf("read IPPool %s: %w", pool.Name, err)
	case c.Status != metav1.ConditionTrue:
		return fmt.Errorf("IPPool %s is %w (%s), it stays closed: %s", pool.Name, errRefused, c.Reason, c.Message)
	}
	return nil
}

// open opens the pools that are closed and accepted.
func (m *Migration) open(ctx context.Context, p Plan) error {
	var errs []error
	for _, pool := range p.Pools {
		if pool.State != StateClosed && pool.State != StateRefused {
			continue
		}
		obj := pool.Object.DeepCopy()
		errs = append(errs, retry.RetryOnConflict(retry.DefaultBackoff, func() error { return m.openOne(ctx, obj) }))
	}
	return errors.Join(errs...)
}

// openOne opens obj as it is now, if it is accepted. A conflict is to be tried again: figures in its status change often.
func (m *Migration) openOne(ctx context.Context, obj *v1alpha1.IPPool) error {
	uid := obj.UID
	if err := m.accepted(ctx, obj); err != nil {
		return err
	}
	if obj.UID != uid {
		return fmt.Errorf("%w: IPPool %s was made anew meanwhile, without what is held", ErrNotReady, obj.Name)
	}
	patch := client.MergeFromWithOptions(obj.DeepCopy(), client.MergeFromWithOptimisticLock{})
	pools.Open(obj)
	metav1.SetMetaDataAnnotation(&obj.ObjectMeta, Annotation, m.name)
	if err := m.api.Patch(ctx, obj, patch); err != nil {
		return fmt.Errorf("open IPPool %s: %w", obj.Name, err)
	}
	return nil
}
