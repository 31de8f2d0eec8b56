// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package multus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/ipam/store"
	"github.com/railyard-net/railyard/test/cluster"
)

const resource = "example.com/nic"

// network is a network's config by keys, with what all of the tests' networks have; nil values delete.
func network(name string, keys map[string]any) map[string]any {
	c := map[string]any{
		"cniVersion": "1.0.0", "name": name, "type": "railyard", "master": cluster.RailLink,
		"capabilities": map[string]bool{"ips": true, "mac": true, "CNIDeviceInfoFile": true},
		"ipam":         map[string]any{"type": "railyard-ipam", "pool": "rail0"},
	}
	for k, v := range keys {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

// define puts a NetworkAttachmentDefinition of a config into the API until the test ends, in place of one that is there; asked says that
// it is for a resource.
func define(t *testing.T, namespace, name string, asked bool, config map[string]any) {
	t.Helper()
	text, err := json.Marshal(config)
	must(t, err)
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	if asked {
		meta.Annotations = map[string]string{"k8s.v1.cni.cncf.io/resourceName": resource}
	}
	object, err := json.Marshal(nadv1.NetworkAttachmentDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: "k8s.cni.cncf.io/v1", Kind: "NetworkAttachmentDefinition"},
		ObjectMeta: meta, Spec: nadv1.NetworkAttachmentDefinitionSpec{Config: string(text)},
	})
	must(t, err)
	undefine(t, namespace, name)
	must(t, lab.api.Client().RESTClient().Post().AbsPath(definitions(namespace)).Body(object).Do(t.Context()).Error())
	t.Cleanup(func() { undefine(t, namespace, name) })
}

func definitions(namespace string) string {
	return "/apis/k8s.cni.cncf.io/v1/namespaces/" + namespace + "/network-attachment-definitions"
}

func undefine(t *testing.T, namespace, name string) {
	t.Helper()
	err := lab.api.Client().RESTClient().Delete().AbsPath(definitions(namespace), name).Do(context.WithoutCancel(t.Context())).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

// pod is a pod of the node with its sandbox.
type pod struct {
	t    *testing.T
	name string
	box  cluster.PodSandbox
}

// made counts pods, for their names.
var made atomic.Int64

// newPod makes a pod that asks for the networks and was given the devices, and its network namespace. It ends with the test.
func newPod(t *testing.T, networks string, devices ...string) *pod {
	t.Helper()
	p := &pod{t: t, name: fmt.Sprintf("pod-%d", made.Add(1))}
	object, err := lab.api.Client().CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: p.name, Annotations: map[string]string{nadv1.NetworkAttachmentAnnot: networks}},
		Spec:       corev1.PodSpec{NodeName: lab.node.Name(), Containers: []corev1.Container{{Name: "none", Image: "none.invalid/none"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	given := map[string][]string{}
	if len(devices) > 0 {
		given[resource] = devices
	}
	must(t, lab.kubelet.Run("default", p.name, given))
	path, err := lab.node.NewPodNetNS(p.name)
	must(t, err)
	p.box = cluster.PodSandbox{Namespace: "default", Name: p.name, UID: string(object.UID), Container: "c-" + p.name, NetNS: path}
	t.Cleanup(p.end)
	return p
}

func (p *pod) end() {
	_ = p.call(context.Background(), "DEL") // what a test that failed has left
	lab.kubelet.End("default", p.name)
	if err := errors.Join(lab.node.RemovePodNetNS(p.name), p.forget()); err != nil {
		p.t.Error(err)
	}
}

// forget takes the pod out of the API.
func (p *pod) forget() error {
	now := int64(0)
	err := lab.api.Client().CoreV1().Pods("default").Delete(context.Background(), p.name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (p *pod) call(ctx context.Context, verb string) error {
	_, err := lab.multus.Call(ctx, verb, "eth0", p.box, "RAILYARD_SYS="+lab.sys)
	return err
}

func (p *pod) add() {
	p.t.Helper()
	must(p.t, p.call(p.t.Context(), "ADD"))
}

func (p *pod) del() {
	p.t.Helper()
	must(p.t, p.call(p.t.Context(), "DEL"))
}

// failAdd is an ADD that must fail, with these words in what Multus answers.
func (p *pod) failAdd(words ...string) {
	p.t.Helper()
	err := p.call(p.t.Context(), "ADD")
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			p.t.Fatalf("ADD: %v, want %q in it", err, w)
		}
	}
}

// status is the network-status that Multus wrote into the pod, by interface, without the default network's.
func (p *pod) status() map[string]nadv1.NetworkStatus {
	p.t.Helper()
	object, err := lab.api.Client().CoreV1().Pods("default").Get(p.t.Context(), p.name, metav1.GetOptions{})
	must(p.t, err)
	var list []nadv1.NetworkStatus
	must(p.t, json.Unmarshal([]byte(object.Annotations[nadv1.NetworkStatusAnnot]), &list))
	out := map[string]nadv1.NetworkStatus{}
	for _, s := range list {
		if _, twice := out[s.Interface]; twice {
			p.t.Errorf("network-status has %s twice: %+v", s.Interface, list)
		}
		if !s.Default && s.Interface != "eth0" {
			out[s.Interface] = s
		}
	}
	return out
}

// rail is an interface of a pod, as the kernel has it.
type rail struct {
	MAC  string
	MTU  int
	IPs  []string // without those of the link itself
	Type string
}

// rails are the pod's interfaces but for loopback and the default network's.
func (p *pod) rails() map[string]rail {
	p.t.Helper()
	out := map[string]rail{}
	must(p.t, lab.node.InPod(p.name, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			a := l.Attrs()
			if a.Name == "lo" || a.Name == "eth0" {
				continue
			}
			r := rail{MAC: a.HardwareAddr.String(), MTU: a.MTU, Type: l.Type()}
			addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, x := range addrs {
				if !x.IP.IsLinkLocalUnicast() {
					r.IPs = append(r.IPs, x.IP.String())
				}
			}
			slices.Sort(r.IPs)
			out[a.Name] = r
		}
		return err
	}))
	return out
}

// checkStatus holds the network-status against the kernel: every interface with its MAC, MTU and addresses, and no other.
func (p *pod) checkStatus() {
	p.t.Helper()
	told := map[string]rail{}
	have := p.rails()
	for name, s := range p.status() {
		ips := slices.Clone(s.IPs)
		slices.Sort(ips)
		told[name] = rail{MAC: s.Mac, MTU: s.Mtu, IPs: ips, Type: have[name].Type}
	}
	if diff := cmp.Diff(have, told); diff != "" {
		p.t.Errorf("network-status (-kernel +status):\n%s", diff)
	}
}

// traces is all that an attachment may leave on the node.
func traces(t *testing.T) (out []string) {
	t.Helper()
	must(t, lab.node.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			out = append(out, fmt.Sprintf("link %s %s mtu %d up %t alt %v", a.Name, a.HardwareAddr, a.MTU, a.Flags&net.FlagUp != 0, a.AltNames))
		}
		leases, err := leasedNow()
		out = append(out, leases...)
		for _, dir := range []string{filepath.Join(stateDir, "attachments"), cluster.MultusCacheDir, "/var/run/k8s.cni.cncf.io/devinfo/cni"} {
			err = errors.Join(err, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if err == nil && !d.IsDir() && d.Name() != ".lock" {
					out = append(out, path)
				}
				return err
			}))
		}
		return err
	}))
	slices.Sort(out)
	return out
}

// leasedNow must run in the node.
func leasedNow() ([]string, error) {
	o, err := store.SystemOptions()
	if err != nil {
		return nil, err
	}
	s, err := store.Open(context.Background(), filepath.Join(stateDir, "ipam.db"), o)
	if err != nil {
		return nil, err
	}
	leases, err := s.Leases()
	var out []string
	for _, l := range leases {
		out = append(out, fmt.Sprint("lease ", l.Key, l.Addresses))
	}
	return out, errors.Join(err, s.Check(), s.Close())
}

// begin gives what the test is to leave behind, which is looked at when the returned function is called.
func begin(t *testing.T) (checkNothingLeft func()) {
	t.Helper()
	before := traces(t)
	return func() {
		t.Helper()
		if t.Failed() {
			return // it left off midway
		}
		// The other end of a link that dies with its namespace goes a moment later.
		cluster.Eventually(t, "nothing is left behind", func() error {
			if diff := cmp.Diff(before, traces(t)); diff != "" {
				return fmt.Errorf("left behind (-before +after):\n%s", diff)
			}
			return nil
		})
	}
}

// addLink gives the node a link with that MTU until the test ends; the plugin finds it by name and, if that is not empty, by a PCI
// address. It gives the link's MAC.
func addLink(t *testing.T, name string, mtu int, pci string) (mac string) {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = name, mtu
	must(t, lab.node.Do(func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: name + "p", PeerMTU: uint32(mtu)}); err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		peer, err := netlink.LinkByName(name + "p")
		if err != nil {
			return err
		}
		mac = l.Attrs().HardwareAddr.String()
		return errors.Join(netlink.LinkSetUp(l), netlink.LinkSetUp(peer))
	}))
	t.Cleanup(func() {
		err := lab.node.Do(func() error {
			l, err := netlink.LinkByName(name + "p")
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})
		if err != nil && !errors.Is(err, unix.ENODEV) {
			t.Error(err)
		}
	})
	if pci != "" {
		device := filepath.Join(lab.sys, "bus/pci/devices", pci)
		class := filepath.Join(lab.sys, "class/net", name)
		must(t, os.MkdirAll(filepath.Join(device, "net", name), 0o755))
		must(t, os.MkdirAll(class, 0o755))
		must(t, os.Symlink("../../../bus/pci/devices/"+pci, filepath.Join(class, "device")))
		t.Cleanup(func() { _ = os.RemoveAll(device); _ = os.RemoveAll(class) })
	}
	return mac
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
