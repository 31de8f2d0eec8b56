// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/conf"
)

// defaultPrefix is what mellanox.com/v1alpha1 puts before every resource's name.
const defaultPrefix = "nvidia.com/"

// link is what the kinds of network differ in.
type link struct {
	config conf.Config // what makes the link
	// annotations of other domains.
	annotations map[string]string
}

// plugin is the configuration of our plugin, but for what a list of plugins says for all of them.
func (l link) plugin() conf.Config {
	c := l.config
	c.Type = conf.Type
	c.Capabilities = map[string]bool{}
	for _, name := range capabilities(c.Kind) {
		c.Capabilities[name] = true
	}
	return c
}

// linkOf is the only place that knows the kinds apart.
func linkOf(n v1alpha1.Network) (link, error) {
	switch n := n.(type) {
	case *v1alpha1.MacvlanNetwork:
		return macvlan(&n.Spec), nil
	case *v1alpha1.HostDeviceNetwork:
		return hostDevice(&n.Spec)
	case *v1alpha1.IPoIBNetwork:
		return ipoib(&n.Spec), nil
	case *v1alpha1.RailNetwork:
		return rail(&n.Spec)
	}
	return link{}, fieldErrorf("kind", "%T cannot be rendered: this program is too old for it", n)
}

func macvlan(s *v1alpha1.MacvlanNetworkSpec) link {
	c := conf.Config{Kind: conf.KindMacvlan, Master: string(s.Master), Mode: s.Mode, MTU: int(s.MTU)}
	if c.Mode == "" {
		c.Mode = conf.ModeBridge
	}
	return link{config: c}
}

func hostDevice(s *v1alpha1.HostDeviceNetworkSpec) (link, error) {
	c := conf.Config{Kind: conf.KindHostDevice, Device: string(s.Device), MTU: int(s.MTU)}
	if s.SRIOV != nil {
		c.Kind = conf.KindSRIOV
		setVF(&c, s.SRIOV)
	}
	l := link{config: c}
	switch {
	case s.ResourceName == "" && s.Device == "":
		return l, fieldErrorf("spec.resourceName", "is missing, and so is spec.device: write resourceName where a device plugin hands out the devices, or device for one that is the same on every node")
	case s.ResourceName != "" && s.Device != "":
		return l, fieldErrorf("spec.device", "is set together with spec.resourceName: keep resourceName where a device plugin hands out the devices, or device for one that is the same on every node")
	case s.ResourceName == "":
		return l, nil
	}
	name := s.ResourceName
	if !strings.Contains(name, "/") {
		name = defaultPrefix + name
	}
	if bad := validation.IsQualifiedName(name); len(bad) > 0 {
		return l, fieldErrorf("spec.resourceName", "%.330q is no resource name: write one like hostdev, which means %shostdev, or one with a prefix like intel.com/sriov", s.ResourceName, defaultPrefix)
	}
	l.annotations = map[string]string{ResourceAnnotation: name}
	return l, nil
}

func ipoib(s *v1alpha1.IPoIBNetworkSpec) link {
	c := conf.Config{Kind: conf.KindIPoIB, Master: string(s.Master), Mode: s.Mode, MTU: int(s.MTU), PKey: s.PKey}
	return link{config: c}
}

func rail(s *v1alpha1.RailNetworkSpec) (link, error) {
	c := conf.Config{Kind: s.Kind, Mode: s.Mode, MTU: int(s.MTU)}
	if c.Kind == "" {
		c.Kind = conf.KindMacvlan
	}
	if s.SRIOV != nil {
		setVF(&c, s.SRIOV)
	}
	for _, r := range s.Rails {
		out := conf.Rail{
			Interface: r.Interface, Master: string(r.Master), Device: string(r.Device), MTU: int(r.MTU), Table: int(r.Table),
			Label: r.Label, Auto: r.Auto, RoCEToS: number(r.RoCEToS),
		}
		if r.Pool != nil {
			out.Pool = r.Pool.Name
		}
		c.Rails = append(c.Rails, out)
	}
	l := link{config: c}
	allowed := []string{conf.KindMacvlan, conf.KindIPvlan, conf.KindHostDevice, conf.KindSRIOV}
	switch i := slices.IndexFunc(c.Rails, func(r conf.Rail) bool { return r.Device == "" && r.Label == "" && !r.Auto }); {
	case !slices.Contains(allowed, c.Kind):
		return l, fieldErrorf("spec.kind", "%.80q is unknown here: write one of %s", c.Kind, strings.Join(allowed, ", "))
	case len(c.Rails) == 0:
		return l, fieldErrorf("spec.rails", "is empty: write at least one rail")
	case conf.Moves(c.Kind) && i >= 0:
		return l, fieldErrorf(fmt.Sprintf("spec.rails[%d].device", i), "is missing: a %s moves a device into the pod, so write device, label or auto", c.Kind)
	}
	return l, nil
}

// capabilities are what a pod may ask for in its annotation, and a device plugin may hand in. They are all that the kind's plugin
// understands, be it to refuse it: a wish that is not declared is dropped by the runtime without a word.
func capabilities(kind string) []string {
	out := []string{conf.CapabilityIPs, conf.CapabilityMAC, conf.CapabilityDeviceID, conf.CapabilityDeviceInfoFile}
	if kind == conf.KindIPoIB || conf.Moves(kind) {
		out = append(out, conf.CapabilityInfinibandGUID)
	}
	return out
}

// sriovFields are the fields of spec.sriov that stand for the plugin's keys, which are those of sriov-cni.
func sriovFields() map[string]string {
	return map[string]string{
		"vlan": "vlan", "vlanQoS": "vlanQoS", "vlanProto": "vlanProto", "spoofchk": "spoofCheck", "trust": "trust",
		"link_state": "linkState", "min_tx_rate": "minTxRate", "max_tx_rate": "maxTxRate",
	}
}

func number(n *int32) *int {
	if n == nil {
		return nil
	}
	return new(int(*n))
}

// setVF writes spec.sriov in the plugin's words.
func setVF(c *conf.Config, s *v1alpha1.SRIOVSettings) {
	onOff := func(b *bool) string {
		switch {
		case b == nil:
			return ""
		case *b:
			return "on"
		}
		return "off"
	}
	c.VLAN, c.VLANQoS, c.VLANProto = number(s.VLAN), number(s.VLANQoS), s.VLANProto
	c.MinTxRate, c.MaxTxRate = number(s.MinTxRate), number(s.MaxTxRate)
	c.SpoofChk, c.Trust, c.LinkState = onOff(s.SpoofCheck), onOff(s.Trust), s.LinkState
}
