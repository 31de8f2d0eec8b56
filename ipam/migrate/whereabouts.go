// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/compat/pools"
)

// whereabouts is the source whose objects list every address.
type whereabouts struct {
	// namespace and account are of the service account that its CNI program uses.
	namespace, account string
}

const whereaboutsGroup = "whereabouts.cni.cncf.io"

func whereaboutsKind(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: whereaboutsGroup, Version: "v1alpha1", Kind: kind}
}

type whereaboutsPool struct {
	Spec struct {
		Range       string `json:"range"`
		Allocations map[string]struct {
			PodRef string `json:"podref"`
		} `json:"allocations"`
	} `json:"spec"`
}

type whereaboutsReservation struct {
	Spec struct {
		PodRef string `json:"podref"`
	} `json:"spec"`
}

func (w whereabouts) read(ctx context.Context, api client.Client, s *state) error {
	may, err := w.mayWrite(ctx, api)
	if err != nil {
		return err
	}
	if may {
		s.giving = append(s.giving, fmt.Sprintf("service account %s/%s may write whereabouts' pools, so a node with the old program can give addresses: "+
			"delete the ClusterRoleBinding that lets it", w.namespace, w.account))
	}
	err = listOld(ctx, api, whereaboutsKind("IPPool"), func(_, name string, p whereaboutsPool) error {
		network, known := networkOf(name, p.Spec.Range)
		first, err := firstOf(p.Spec.Range)
		if err != nil {
			return err
		}
		for offset, a := range p.Spec.Allocations {
			addr, err := plus(first, offset)
			if err != nil {
				return fmt.Errorf("allocation %q: %w", offset, err)
			}
			s.live = append(s.live, use{addr, network, !known, a.PodRef, byAllocation})
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = listOld(ctx, api, whereaboutsKind("OverlappingRangeIPReservation"), func(_, name string, r whereaboutsReservation) error {
		uses := reserved(name)
		for _, u := range uses {
			u.pod, u.why = r.Spec.PodRef, byReservation
			s.live = append(s.live, u)
		}
		if len(uses) == 0 {
			return errors.New("the name holds no address")
		}
		return nil
	})
	if err != nil {
		return err
	}
	sortUses(s.live)
	return readWants(ctx, api, s)
}

// readWants are the pools that the definitions mean.
func readWants(ctx context.Context, api client.Client, s *state) error {
	var list nadv1.NetworkAttachmentDefinitionList
	if err := api.List(ctx, &list); err != nil {
		return fmt.Errorf("list NetworkAttachmentDefinitions: %w", err)
	}
	at := map[string]int{}
	for i := range list.Items {
		nad := &list.Items[i]
		calls, err := compat.Find(nad.Spec.Config, nad.Name)
		if err != nil {
			s.lost = append(s.lost, fmt.Sprintf("NetworkAttachmentDefinition %s/%s: %v", nad.Namespace, nad.Name, err))
		}
		for _, c := range calls {
			for _, p := range c.Pools {
				if p.Range == nil {
					continue
				}
				j, ok := at[p.Name]
				if !ok {
					j = len(s.wants)
					at[p.Name] = j
					s.wants = append(s.wants, want{pool: pools.Object(pools.Ranges(list.Items, p.Name)), network: p.Range.Network})
				}
				s.wants[j].nads = append(s.wants[j].nads, nad.Namespace+"/"+nad.Name)
			}
		}
	}
	return nil
}

// mayWrite asks the API server whether the old program, wherever it still is, could record an address.
func (w whereabouts) mayWrite(ctx context.Context, api client.Client) (bool, error) {
	for _, verb := range []string{"create", "update", "patch"} {
		review := &authv1.SubjectAccessReview{Spec: authv1.SubjectAccessReviewSpec{
			User:   fmt.Sprintf("system:serviceaccount:%s:%s", w.namespace, w.account),
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + w.namespace, "system:authenticated"},
			ResourceAttributes: &authv1.ResourceAttributes{
				Namespace: w.namespace, Verb: verb, Group: whereaboutsGroup, Version: "v1alpha1", Resource: "ippools",
			},
		}}
		if err := api.Create(ctx, review); err != nil {
			return false, fmt.Errorf("ask what service account %s/%s may do: %w", w.namespace, w.account, err)
		}
		if review.Status.Allowed {
			return true, nil
		}
	}
	return false, nil
}

func (whereabouts) gives(*corev1.Pod) string { return "" }

// networkOf is the network_name of a pool's object: what stands before its range in its name. False: the name is made
// in another way, as whereabouts' pools of one node are.
func networkOf(name, cidr string) (string, bool) {
	if strings.HasSuffix(cidr, ":") {
		cidr += "0"
	}
	text := strings.NewReplacer(":", "-", "/", "-").Replace(cidr)
	if name == text {
		return "", true
	}
	return strings.CutSuffix(name, "-"+text)
}

// firstOf is the address that offsets count from: that of the CIDR as it is written.
func firstOf(cidr string) (netip.Addr, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("range %q: %w", cidr, err)
	}
	return p.Addr(), nil
}

func plus(a netip.Addr, offset string) (netip.Addr, error) {
	n, ok := new(big.Int).SetString(offset, 10)
	if !ok || n.Sign() < 0 {
		return netip.Addr{}, errors.New("is no number")
	}
	n.Add(n, new(big.Int).SetBytes(a.AsSlice()))
	if n.BitLen() > a.BitLen() {
		return netip.Addr{}, errors.New("is past the last address")
	}
	b := n.FillBytes(make([]byte, a.BitLen()/8))
	out, _ := netip.AddrFromSlice(b)
	return out, nil
}

// reserved are the addresses that a reservation's name can mean: it is an address with dashes for colons, after a
// network_name and a dash if there is one, which may look like a part of the address.
func reserved(name string) []use {
	var out []use
	for i := -1; i < len(name); i++ {
		if i >= 0 && name[i] != '-' {
			continue
		}
		a, err := netip.ParseAddr(strings.ReplaceAll(name[i+1:], "-", ":"))
		if err == nil {
			out = append(out, use{addr: a, network: name[:max(i, 0)]})
		}
	}
	return out
}
