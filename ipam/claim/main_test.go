// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

// api is the one API server of this package's tests.
var api client.WithWatch

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	a, err := cluster.StartAPI(ctx, cluster.APIOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = a.Stop() }()
	if err := a.Apply(ctx, "manifests/crd/ipam.railyard.dev_ippools.yaml", "manifests/crd/ipam.railyard.dev_ipblocks.yaml"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	scheme := runtime.NewScheme()
	_ = v1alpha1.AddToScheme(scheme)
	cfg := a.RESTConfig()
	cfg.QPS = -1
	if api, err = client.NewWithWatch(cfg, client.Options{Scheme: scheme}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// pools counts the pools of this process, for names that are not used twice (go test -count).
var pools atomic.Int64

// newPool is a pool whose name no other test has. Claimers need no IPPool object.
func newPool(t testing.TB, spec ipam.PoolSpec) ipam.Pool {
	t.Helper()
	r := strings.NewReplacer("/", "-", "_", "-", " ", "-", ",", "")
	spec.Name = fmt.Sprintf("%s%s-%d", strings.ToLower(r.Replace(strings.TrimPrefix(t.Name(), "Test"))), spec.Name, pools.Add(1))
	spec.UID = "uid-of-" + spec.Name
	return mustPool(t, spec)
}

func v4(subnet string, size int) *ipam.SubnetSpec {
	return &ipam.SubnetSpec{Subnet: subnet, BlockSize: size}
}

func node(i int) ipam.Owner {
	return ipam.Owner{Node: fmt.Sprintf("node-%d", i), NodeUID: fmt.Sprintf("uid-%d", i), Session: fmt.Sprintf("session-%d", i)}
}

// blocksOf are the blocks of a pool by name, read past every fault.
func blocksOf(t testing.TB, pool ipam.Pool) map[string]ipam.Block {
	t.Helper()
	var l v1alpha1.IPBlockList
	if err := api.List(context.Background(), &l, client.MatchingLabels{v1alpha1.LabelPool: pool.Name}); err != nil {
		t.Fatal(err)
	}
	out := map[string]ipam.Block{}
	for _, o := range l.Items {
		b, err := o.Block()
		if err != nil {
			t.Error(err)
		}
		out[b.Name] = b
	}
	return out
}

// check is the first invariant over the pool's blocks.
func check(t testing.TB, pool ipam.Pool) {
	t.Helper()
	var all []ipam.Block
	for _, b := range blocksOf(t, pool) {
		all = append(all, b)
	}
	if err := CheckBlocks(all); err != nil {
		t.Error(err)
	}
}

// requests counts what goes to the API server.
type requests struct{ get, list, create, update, remove atomic.Int64 }

func (r *requests) String() string {
	return fmt.Sprintf("GET %d LIST %d CREATE %d UPDATE %d DELETE %d", r.get.Load(), r.list.Load(), r.create.Load(), r.update.Load(), r.remove.Load())
}

func (r *requests) client() client.Client {
	return interceptor.NewClient(api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			r.get.Add(1)
			return c.Get(ctx, k, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			r.list.Add(1)
			return c.List(ctx, l, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			r.create.Add(1)
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			r.update.Add(1)
			return c.Update(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			r.remove.Add(1)
			return c.Delete(ctx, o, opts...)
		},
	})
}
