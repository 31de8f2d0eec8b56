// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/ipam/api/v1alpha1"
	"github.com/railyard-net/railyard/ipam/compat"
	"github.com/railyard-net/railyard/ipam/compat/pools"
)

// nvIPAM is the source whose objects say which node has which block, and whose nodes know the addresses.
type nvIPAM struct{}

func nvKind(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "nv-ipam.nvidia.com", Version: "v1alpha1", Kind: kind}
}

type nvPool struct {
	Spec struct {
		Subnet           string `json:"subnet"`
		PerNodeBlockSize int    `json:"perNodeBlockSize"`
		Gateway          string `json:"gateway"`
		DefaultGateway   bool   `json:"defaultGateway"`
		Exclusions       []struct {
			StartIP string `json:"startIP"`
			EndIP   string `json:"endIP"`
		} `json:"exclusions"`
		PerNodeExclusions []any                `json:"perNodeExclusions"`
		NodeSelector      *corev1.NodeSelector `json:"nodeSelector"`
		Routes            []struct {
			Dst string `json:"dst"`
		} `json:"routes"`
	} `json:"spec"`
	Status struct {
		Allocations []struct {
			NodeName string `json:"nodeName"`
			StartIP  string `json:"startIP"`
			EndIP    string `json:"endIP"`
		} `json:"allocations"`
	} `json:"status"`
}

func (nvIPAM) read(ctx context.Context, api client.Client, s *state) error {
	seen := map[string]string{}
	err := listOld(ctx, api, nvKind("IPPool"), func(namespace, name string, p nvPool) error {
		pool, lost, err := p.convert(name)
		if err != nil {
			return err
		}
		if was, ok := seen[pool.Name]; ok {
			return fmt.Errorf("is IPPool %s, as the pool of namespace %s is", pool.Name, was)
		}
		seen[pool.Name] = namespace
		for _, l := range lost {
			s.lost = append(s.lost, fmt.Sprintf("pool %s: %s", name, l))
		}
		s.wants = append(s.wants, want{pool: pool})
		for _, a := range p.Status.Allocations {
			from, err := netip.ParseAddr(a.StartIP)
			to, err2 := netip.ParseAddr(a.EndIP)
			if err := errors.Join(err, err2); err != nil {
				return fmt.Errorf("the block of node %s: %w", a.NodeName, err)
			}
			s.blocks = append(s.blocks, oldBlock{pool.Name, a.NodeName, from, to})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return listOld(ctx, api, nvKind("CIDRPool"), func(namespace, name string, _ struct{}) error {
		s.lost = append(s.lost, fmt.Sprintf("CIDRPool %s/%s is not taken over: an IPPool is one subnet for all nodes", namespace, name))
		return nil
	})
}

// convert is the IPPool of a pool, and what of it an IPPool cannot say.
func (p nvPool) convert(name string) (*v1alpha1.IPPool, []string, error) {
	var lost []string
	prefix, err := netip.ParsePrefix(p.Spec.Subnet)
	if err != nil {
		return nil, nil, fmt.Errorf("subnet %q: %w", p.Spec.Subnet, err)
	}
	sub := &ipam.SubnetSpec{Subnet: prefix.Masked().String(), Gateway: p.Spec.Gateway, BlockSize: ipam.DefaultBlockSize}
	if n := p.Spec.PerNodeBlockSize; n > 0 {
		n = min(n, ipam.MaxBlockSize)
		sub.BlockSize = 1 << (bits.Len(uint(n)) - 1)
	}
	for _, x := range p.Spec.Exclusions { // not given, but to who asks by name
		sub.Reserved = append(sub.Reserved, x.StartIP+"-"+x.EndIP)
	}
	spec := ipam.PoolSpec{Name: compat.NVPoolName(name), DefaultRoute: p.Spec.DefaultGateway}
	if prefix.Addr().Is4() {
		spec.IPv4 = sub
	} else {
		spec.IPv6 = sub
	}
	for _, r := range p.Spec.Routes {
		spec.Routes = append(spec.Routes, ipam.RouteSpec{Dst: r.Dst})
	}
	if _, err := ipam.ParsePool(spec); err != nil {
		return nil, nil, fmt.Errorf("makes no IPPool: %w", err)
	}
	out := pools.FromSpec(spec)
	if len(p.Spec.PerNodeExclusions) > 0 {
		lost = append(lost, "perNodeExclusions: a node has no fixed block whose addresses could be counted")
	}
	if out.Spec.NodeSelector, err = selector(p.Spec.NodeSelector); err != nil {
		return nil, nil, err
	}
	return out, lost, nil
}

// selector is a node selector of one term as a label selector.
func selector(s *corev1.NodeSelector) (*metav1.LabelSelector, error) {
	if s == nil || len(s.NodeSelectorTerms) == 0 {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if len(s.NodeSelectorTerms) > 1 || len(s.NodeSelectorTerms[0].MatchFields) > 0 {
		return nil, errors.New("nodeSelector has several terms, or matches fields: an IPPool selects by labels, so label these nodes and write one term with that label")
	}
	out := &metav1.LabelSelector{}
	for _, e := range s.NodeSelectorTerms[0].MatchExpressions {
		op := metav1.LabelSelectorOperator(e.Operator)
		if !slices.Contains([]metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist}, op) {
			return nil, fmt.Errorf("nodeSelector uses %s: an IPPool knows In, NotIn, Exists and DoesNotExist, so label these nodes and write one of these", e.Operator)
		}
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: op, Values: e.Values})
	}
	return out, nil
}

// gives says that the pod is a node's daemon, which gives addresses without asking the API.
func (nvIPAM) gives(p *corev1.Pod) string {
	const label, program = "nv-ipam-node", "/ipam-node"
	is := p.Labels["name"] == label || p.Labels["app"] == label
	for _, c := range p.Spec.Containers {
		is = is || len(c.Command) > 0 && c.Command[0] == program
	}
	if !is {
		return ""
	}
	return fmt.Sprintf("pod %s/%s gives addresses on node %s: delete the DaemonSet of nv-ipam's node daemon", p.Namespace, p.Name, p.Spec.NodeName)
}
