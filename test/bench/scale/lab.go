// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/test/cluster"
)

const (
	// roomy is a pool with more blocks than anybody needs; crowded has one for each node.
	roomy, crowded = "roomy", "crowded"
	// joinAtOnce bounds the set-up, which is not measured.
	joinAtOnce = 16
)

// lab is an API server, the controller, and the nodes.
type lab struct {
	api        *cluster.API
	admin      client.Client
	controller *controller
	dir        string // the stores, on tmpfs
	configs    []*rest.Config
	members    []*member

	pools, blocks *observer
	endObservers  context.CancelFunc
}

// newLab makes everything but the agents.
func newLab(ctx context.Context, o options, nodes int) (_ *lab, err error) {
	l := &lab{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.dir, err = tmpfsDir(); err != nil {
		return nil, err
	}
	if l.api, err = cluster.StartAPI(ctx, cluster.APIOptions{Tools: cluster.Tools(o.tools)}); err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if l.admin, err = client.New(l.api.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	if err := l.api.Apply(ctx, "manifests/crd", "manifests/install/namespace.yaml", "manifests/rbac"); err != nil {
		return nil, err
	}
	if l.controller, err = startController(ctx, o, l.api); err != nil {
		return nil, err
	}
	if err := l.makePools(ctx, nodes, o.block); err != nil {
		return nil, err
	}
	l.configs = make([]*rest.Config, nodes)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(joinAtOnce)
	for i := range nodes {
		g.Go(func() (err error) {
			l.configs[i], err = l.api.NodeConfig(gctx, nodeName(i))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	watching, end := context.WithCancel(context.WithoutCancel(ctx))
	l.endObservers = end
	if l.pools, err = observe(watching, l.api.RESTConfig(), "ippools"); err != nil {
		return nil, err
	}
	l.blocks, err = observe(watching, l.api.RESTConfig(), "ipblocks")
	return l, err
}

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

// tmpfsDir makes a folder where the stores are in memory, as /run/railyard is.
func tmpfsDir() (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "railyard-scale-"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "railyard-scale-")
}

// makePools makes the pools and waits until the controller has accepted them.
func (l *lab) makePools(ctx context.Context, nodes, block int) error {
	first := netip.MustParseAddr("172.17.0.0").As4()
	last := netip.AddrFrom4([4]byte{first[0], first[1] + byte((nodes*block-1)>>16), byte((nodes*block - 1) >> 8), byte(nodes*block - 1)})
	pools := []*v1alpha1.IPPool{
		{ObjectMeta: metav1.ObjectMeta{Name: roomy}, Spec: v1alpha1.IPPoolSpec{IPv4: &v1alpha1.Subnet{Subnet: "10.0.0.0/12", BlockSize: int32(block)}}},
		{ObjectMeta: metav1.ObjectMeta{Name: crowded}, Spec: v1alpha1.IPPoolSpec{IPv4: &v1alpha1.Subnet{
			Subnet: "172.16.0.0/12", BlockSize: int32(block), Ranges: []v1alpha1.AddressRange{v1alpha1.AddressRange(netip.AddrFrom4(first).String() + "-" + last.String())},
		}}},
	}
	for _, p := range pools {
		if err := l.admin.Create(ctx, p); err != nil {
			return fmt.Errorf("create pool %s: %w", p.Name, err)
		}
		if err := until(ctx, time.Minute, "the controller accepts pool "+p.Name, func() (bool, error) {
			var now v1alpha1.IPPool
			err := l.admin.Get(ctx, client.ObjectKeyFromObject(p), &now)
			return meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionAccepted), err
		}); err != nil {
			return err
		}
	}
	return nil
}

// demand is what all agents have asked for so far.
func (l *lab) demand() demand {
	var d demand
	for _, m := range l.members {
		d = d.plus(m.meter.read(), 1)
	}
	return d
}

// close ends everything.
func (l *lab) close() error {
	if l.endObservers != nil {
		l.endObservers()
	}
	var g errgroup.Group
	for _, m := range l.members {
		g.Go(m.stop)
	}
	errs := []error{g.Wait()}
	if l.controller != nil {
		l.controller.stop()
	}
	if l.api != nil {
		errs = append(errs, l.api.Stop())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// until repeats check until it is true, for so long.
func until(ctx context.Context, limit time.Duration, what string, check func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for {
		ok, err := check()
		if ok && err == nil {
			return nil
		}
		if time.Since(began) > limit {
			return errors.Join(fmt.Errorf("not within %s: %s", limit, what), err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
	}
}
