// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/claim"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/test/cluster"
)

// book knows who has which address, by what ADD answered and until its DEL begins.
type book struct {
	mu   sync.Mutex
	by   map[string]string
	adds int
}

func (b *book) gave(ip, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other, taken := b.by[ip]; taken {
		return fmt.Errorf("%s was given to %s while %s has it", ip, id, other)
	}
	b.by[ip] = id
	b.adds++
	return nil
}

func (b *book) answered() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.adds
}

func (b *book) ends(ip string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.by, ip)
}

// pod makes one attachment and ends it. Of its calls some are killed, as a kubelet does that loses patience.
func (n *node) pod(b *book, id string) error {
	netns, err := n.NewPodNetNS(id)
	if err != nil {
		return err
	}
	try := func(verb string) (answer, error) {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		if rand.IntN(4) == 0 {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), time.Duration(rand.IntN(15_000))*time.Microsecond)
		}
		defer cancel()
		a, err := n.call(ctx, verb, id, netns, nil)
		if err == nil && a.code != 0 && a.code != dispatch.CodeTryAgain {
			err = fmt.Errorf("%s %s: code %d: %s", verb, id, a.code, a.msg)
		}
		return a, err
	}
	a, err := try("ADD")
	if err != nil {
		return err
	}
	if a.ip != "" {
		if err := b.gave(a.ip, id); err != nil {
			return err
		}
		if rand.IntN(3) == 0 {
			if c, err := n.call(context.Background(), "CHECK", id, netns, nil); err != nil || c.code != 0 && c.code != dispatch.CodeTryAgain {
				return fmt.Errorf("CHECK %s: %+v %w", id, c, err)
			}
		}
		b.ends(a.ip)
	}
	for {
		d, err := try("DEL")
		if err != nil {
			return err
		}
		if !d.killed && d.code == 0 {
			break
		}
	}
	return n.RemovePodNetNS(id)
}

// Agents, plugins and the API server are killed over and over while pods come and go on two nodes. No address is given twice, every
// failure is one that a kubelet repeats, and in the end nothing is left.
func TestKilledInLoops(t *testing.T) {
	const workers, pods, deaths = 3, 40, 6
	l := newLab(t, "10.40.0.0/26", 8, nil, "n1", "n2")
	b := &book{by: map[string]string{}}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	var killed atomic.Int32
	var killers, load sync.WaitGroup
	done := make(chan struct{})
	// Each kills when something has succeeded since it did so the last time, at a moment that is a matter of chance: however slow the
	// machine is, there is progress to disturb.
	next := func(adds int) bool {
		for before := b.answered(); b.answered() < before+adds; {
			if closed(done) {
				return false
			}
			<-time.After(10 * time.Millisecond)
		}
		<-time.After(time.Duration(rand.IntN(300)) * time.Millisecond)
		return !closed(done)
	}
	for _, n := range l.nodes {
		killers.Go(func() {
			for next(2) {
				n.kill()
				killed.Add(1)
				n.start()
			}
		})
	}
	killers.Go(func() {
		for next(5) {
			l.api.StopServer()
			if err := l.api.RestartServer(ctx); err != nil {
				t.Error(err)
				return
			}
			killed.Add(1)
		}
	})
	for _, n := range l.nodes {
		for w := range workers {
			load.Go(func() {
				for i := 0; (i < pods || killed.Load() < deaths) && !t.Failed(); i++ {
					if err := n.pod(b, fmt.Sprintf("%s-%d-%d", n.Name(), w, i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	load.Wait()
	close(done)
	killers.Wait()
	t.Logf("%d ADDs were answered, %d agents and API servers died", b.adds, killed.Load())
	if b.adds < deaths {
		t.Errorf("only %d ADDs succeeded", b.adds)
	}
	for _, n := range l.nodes {
		cluster.Eventually(t, "no attachment is left on "+n.Name(), func() error {
			names, err := n.attachments()
			if len(names) > 0 {
				err = fmt.Errorf("%v", names)
			}
			return err
		})
	}
	l.soundBlocks()
	for _, n := range l.nodes {
		n.kill()
		leases, err := n.leases()
		if err != nil || len(leases) > 0 {
			t.Errorf("%s: leases %v, %v", n.Name(), leases, err)
		}
	}
}

// soundBlocks waits until the mirror shows no lease, and checks who owns what.
func (l *lab) soundBlocks() {
	l.t.Helper()
	api, err := client.New(l.api.RESTConfig(), client.Options{})
	must(l.t, err)
	must(l.t, v1alpha1.AddToScheme(api.Scheme()))
	cluster.Eventually(l.t, "the blocks say that nothing is leased", func() error {
		var list v1alpha1.IPBlockList
		if err := api.List(l.t.Context(), &list); err != nil {
			if apierrors.IsForbidden(err) {
				l.t.Fatal(err)
			}
			return err
		}
		var blocks []ipam.Block
		var leased []string
		for i := range list.Items {
			b, err := list.Items[i].Block()
			if err != nil {
				l.t.Fatal(err)
			}
			blocks = append(blocks, b)
			for _, x := range list.Items[i].Status.Leases {
				leased = append(leased, x.Address+" "+x.ContainerID)
			}
		}
		if err := claim.CheckBlocks(blocks); err != nil {
			l.t.Fatal(err)
		}
		if len(leased) > 0 {
			return fmt.Errorf("leased: %s", strings.Join(leased, ", "))
		}
		return nil
	})
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
