// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package ipamplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

// rollbackTime bounds the return of what a failed ADD has leased.
const rollbackTime = 5 * time.Second

// pretender serves the configs of whereabouts and nv-ipam. An attachment has one lease for each of their pools, under
// keys that follow from its own, so a DEL that knows nothing but these finds them all.
type pretender struct {
	plugin
	known conf.Known
}

// as gives the pretender for a config that is not railyard-ipam's own.
func (p plugin) as(a dispatch.Args) (pretender, bool) {
	known, err := conf.ParseKnown(a.Stdin, p.stateDir)
	return pretender{p, known}, err == nil && compat.Is(known.IPAMType)
}

// keyOf is the key of the lease of an attachment's pool i.
func keyOf(k ipam.Key, i int) ipam.Key {
	if i > 0 {
		k.IfName += "/" + strconv.Itoa(i) // which no interface's name can have
	}
	return k
}

// parse reads the config, and the file of defaults that goes with it.
func (p pretender) parse(a dispatch.Args) (compat.Call, error) {
	in := compat.Input{Config: a.Stdin, ArgsIP: a.Extra.Get("IP")}
	if path, must := compat.DefaultsFile(a.Stdin); path != "" {
		data, err := os.ReadFile(path)
		switch {
		case err == nil:
			in.Defaults = data
		case must || !errors.Is(err, fs.ErrNotExist):
			return compat.Call{}, dispatch.Errorf(dispatch.CodeIO, "read the defaults of the ipam section: %w", err)
		}
	}
	return compat.Parse(in)
}

// add leases from every pool, or from none: what this call has leased before another pool refuses goes back.
func (p pretender) add(ctx context.Context, a dispatch.Args) (*current.Result, error) {
	c, err := p.parse(a)
	if err != nil {
		return nil, err
	}
	if len(c.Ignored) > 0 {
		p.warn("%s: these keys mean nothing to railyard-ipam, which stands in for %s: %s", a.Name, c.Type, strings.Join(c.Ignored, ", "))
	}
	leases := leaser(p.known.Paths)
	out := &current.Result{CNIVersion: current.ImplementedSpecVersion, DNS: c.DNS}
	if c.Own {
		out.Routes = c.Routes
	}
	var taken []ipam.Key
	for i, pool := range c.Pools {
		k := keyOf(key(a), i)
		if len(c.Pools) > 1 {
			if _, err := leases.Lookup(ctx, k); errors.Is(err, ipam.ErrNotFound) {
				taken = append(taken, k)
			}
		}
		l, err := leases.Lease(ctx, ipam.Request{Key: k, Pool: pool.Name, NetNS: a.NS, Static: pool.Static, Pod: a.Extra.Pod()})
		if err != nil {
			return nil, errors.Join(explain(err, c.Type, pool.Name), rollback(ctx, leases, taken))
		}
		r := Result(l)
		if c.Own {
			for _, ip := range r.IPs {
				ip.Gateway = pool.Gateway.AsSlice()
			}
		} else {
			out.Routes = append(out.Routes, r.Routes...)
		}
		out.IPs = append(out.IPs, r.IPs...)
	}
	return out, nil
}

// explain says of a pool that the config does not name where it comes from.
func explain(err error, kind, pool string) error {
	if !errors.Is(err, ipam.ErrPoolUnknown) {
		return err
	}
	return fmt.Errorf("%w: railyard-controller makes the IPPool %s of %s with --whereabouts-pools, or with its command migrate", err, pool, kind)
}

func rollback(ctx context.Context, leases ipam.Leaser, keys []ipam.Key) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	var errs []error
	for _, k := range keys {
		errs = append(errs, leases.Release(ctx, k))
	}
	return errors.Join(errs...)
}

// del releases under every key that the attachment may have: the config of a DEL may have been stripped or edited.
func (p pretender) del(ctx context.Context, a dispatch.Args) error {
	leases := leaser(p.known.Paths)
	var errs []error
	for i := range compat.MaxPools {
		errs = append(errs, leases.Release(ctx, keyOf(key(a), i)))
	}
	return errors.Join(errs...)
}

func (p pretender) check(ctx context.Context, a dispatch.Args) error {
	c, err := p.parse(a)
	if err != nil {
		return err
	}
	leases := leaser(p.known.Paths)
	for i, pool := range c.Pools {
		l, err := leases.Lookup(ctx, keyOf(key(a), i))
		if err != nil {
			return err
		}
		if l.Pool != pool.Name {
			return dispatch.Errorf(dispatch.CodeDrift, "the lease is of pool %s, but the config means %s", l.Pool, pool.Name)
		}
		if err := checkResult(l, a); err != nil {
			return err
		}
	}
	return nil
}

func (p pretender) gc(ctx context.Context, a dispatch.Args) error {
	valid, err := conf.ParseValidAttachments(a.Stdin)
	if err != nil {
		return err
	}
	var keep []ipam.Key
	for _, v := range valid {
		for i := range compat.MaxPools {
			keep = append(keep, keyOf(ipam.Key{Network: a.Name, ContainerID: v.ContainerID, IfName: v.IfName}, i))
		}
	}
	_, err = leaser(p.known.Paths).Retain(ctx, a.Name, keep)
	return err
}

func (p pretender) status(ctx context.Context, a dispatch.Args) error {
	c, err := p.parse(a)
	if err != nil {
		return err
	}
	for _, pool := range c.Pools {
		if err := leaser(p.known.Paths).Ready(ctx, pool.Name); err != nil {
			return dispatch.StatusError(explain(err, c.Type, pool.Name))
		}
	}
	return nil
}
