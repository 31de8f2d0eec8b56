// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/railyard-net/railyard/ipam/api/v1alpha1"
)

const (
	networksAnnotation = "k8s.v1.cni.cncf.io/networks"
	statusAnnotation   = "k8s.v1.cni.cncf.io/network-status"
	railLink           = "net1"
	podNamespace       = "default"
)

// podRail is a pod's rail, as the pod's namespace has it and as Multus reported it.
type podRail struct {
	pod, node string
	sandbox   *sandbox
	addrs     []netip.Addr
	asked     []netip.Addr // for which the pod asked by name, in the order of addrs
	blocks    []string     // of addrs
	mac       string
	mtu       int
}

// show creates the pods and checks that each has its rail and reaches every other.
func (d *demo) show(ctx context.Context) error {
	count, err := d.createPods(ctx)
	if err != nil {
		return err
	}
	var rails []podRail
	err = d.await(ctx, "wait for the pods to run", func(ctx context.Context) error {
		rails, err = d.rails(ctx, count)
		return err
	})
	if err != nil {
		return err
	}
	d.out.Step("%d pods run, each with %s from Multus, railyard and our IPAM", count, railLink)
	if err := d.checkAddresses(ctx, rails); err != nil {
		return err
	}
	pings, err := pingAll(ctx, rails)
	if err != nil {
		return err
	}
	d.out.Step("every pod reached every other over %s: %d pings answered", railLink, pings)
	// The mirror comes in batches: the table waits for it, nothing else does.
	err = d.await(ctx, "wait for the leases in the blocks' status", func(ctx context.Context) error {
		return d.mirrored(ctx, count*d.network.families)
	})
	if err != nil {
		return err
	}
	return d.table(ctx, rails)
}

// createPods creates pods on every node. It returns how many pods there are, with those of the samples.
func (d *demo) createPods(ctx context.Context) (int, error) {
	for i := range podsPerNode * len(d.hosts) {
		host := d.hosts[i%len(d.hosts)]
		if err := d.createPod(ctx, fmt.Sprintf("pod-%d", i+1), host.Name(), d.network.namespace+"/"+d.network.name); err != nil {
			return 0, err
		}
	}
	pods, err := d.api.Client().CoreV1().Pods(podNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	return len(pods.Items), nil
}

func (d *demo) createPod(ctx context.Context, name, node, networks string) error {
	_, err := d.api.Client().CoreV1().Pods(podNamespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{networksAnnotation: networks}},
		Spec: corev1.PodSpec{
			NodeName:   node,
			Containers: []corev1.Container{{Name: "none", Image: "none.invalid/none"}}, // nothing is run
		},
	}, metav1.CreateOptions{})
	return err
}

// rails reads the rails of all pods; it fails while there is a pod that does not run.
func (d *demo) rails(ctx context.Context, count int) ([]podRail, error) {
	pods, err := d.api.Client().CoreV1().Pods(podNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	if len(pods.Items) != count {
		return nil, fmt.Errorf("%d pods, want %d", len(pods.Items), count)
	}
	var rails []podRail
	for _, pod := range pods.Items {
		if pod.Status.Phase != corev1.PodRunning {
			return nil, fmt.Errorf("pod %s is %s", pod.Name, pod.Status.Phase)
		}
		r, err := d.rail(&pod)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", pod.Name, err)
		}
		rails = append(rails, r)
	}
	return rails, nil
}

func (d *demo) rail(pod *corev1.Pod) (podRail, error) {
	r := podRail{pod: pod.Name, node: pod.Spec.NodeName, sandbox: d.kubelet.sandboxOf(pod.Namespace + "/" + pod.Name)}
	if r.sandbox == nil {
		return r, errors.New("has no sandbox")
	}
	var status []struct {
		Name      string       `json:"name"`
		Interface string       `json:"interface"`
		IPs       []netip.Addr `json:"ips"`
		MAC       string       `json:"mac"`
		MTU       int          `json:"mtu"`
	}
	if err := json.Unmarshal([]byte(pod.Annotations[statusAnnotation]), &status); err != nil {
		return r, fmt.Errorf("annotation %s is %q: %w", statusAnnotation, pod.Annotations[statusAnnotation], err)
	}
	for _, s := range status {
		if s.Interface == railLink && s.Name == d.network.namespace+"/"+d.network.name {
			r.addrs, r.mac, r.mtu = s.IPs, s.MAC, s.MTU
		}
	}
	var err error
	if r.asked, err = askedFor(pod); err != nil {
		return r, err
	}
	if len(r.addrs) != d.network.families {
		return r, fmt.Errorf("%s has addresses %v, want %d: %s", railLink, r.addrs, d.network.families, pod.Annotations[statusAnnotation])
	}
	return r, nil
}

// askedFor reads the addresses for which a pod asks, from the long form of the annotation.
func askedFor(pod *corev1.Pod) ([]netip.Addr, error) {
	text := pod.Annotations[networksAnnotation]
	if !strings.HasPrefix(text, "[") {
		return nil, nil
	}
	var networks []struct {
		IPs []string `json:"ips"`
	}
	if err := json.Unmarshal([]byte(text), &networks); err != nil || len(networks) != 1 {
		return nil, fmt.Errorf("annotation %s is %q, want one network: %w", networksAnnotation, text, err)
	}
	var asked []netip.Addr
	for _, text := range networks[0].IPs {
		text, _, _ := strings.Cut(text, "/")
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		asked = append(asked, a)
	}
	return asked, nil
}

// checkAddresses checks what the pods were given: on the link, from a block of the node, nothing twice, and the static ones as asked.
func (d *demo) checkAddresses(ctx context.Context, rails []podRail) error {
	blocks, err := d.network.blocks(ctx)
	if err != nil {
		return err
	}
	owner, static := map[netip.Addr]string{}, 0
	for i := range rails {
		r := &rails[i]
		if err := r.checkLink(); err != nil {
			return fmt.Errorf("pod %s: %w", r.pod, err)
		}
		for _, a := range r.addrs {
			if other, taken := owner[a]; taken {
				return fmt.Errorf("address %s was given to both %s and %s", a, other, r.pod)
			}
			owner[a] = r.pod
			block, err := blockOf(blocks, r.node, a)
			if err != nil {
				return fmt.Errorf("pod %s: %w", r.pod, err)
			}
			r.blocks = append(r.blocks, block)
		}
		if len(r.asked) == 0 {
			continue
		}
		if !slices.Equal(r.asked, r.addrs) {
			return fmt.Errorf("pod %s asked for %v and was given %v", r.pod, r.asked, r.addrs)
		}
		static++
	}
	if static == 0 {
		return errors.New("no pod of the samples asks for addresses by name: the demo checks one")
	}
	d.out.Step("%d addresses, none twice, each from a block of the pod's node; %d pod got those it asked for", len(owner), static)
	return nil
}

// checkLink compares what Multus reported with the link itself.
func (r *podRail) checkLink() error {
	return r.sandbox.host.InPod(r.sandbox.netns, func() error {
		link, err := net.InterfaceByName(railLink)
		if err != nil {
			return err
		}
		if link.Flags&net.FlagUp == 0 || link.HardwareAddr.String() != r.mac {
			return fmt.Errorf("link %s is %v, MAC %s; reported was MAC %s", railLink, link.Flags, link.HardwareAddr, r.mac)
		}
		r.mtu = link.MTU
		got := map[netip.Addr]bool{}
		addrs, err := link.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				return err
			}
			got[p.Addr().Unmap()] = true
		}
		for _, a := range r.addrs {
			if !got[a] {
				return fmt.Errorf("link %s has %v; reported was %v", railLink, addrs, r.addrs)
			}
		}
		return nil
	})
}

// pingAll sends from every address of every pod to all addresses of that family of the other pods.
func pingAll(ctx context.Context, rails []podRail) (count int, err error) {
	g, ctx := errgroup.WithContext(ctx)
	for _, from := range rails {
		for _, src := range from.addrs {
			var targets []netip.Addr
			for _, to := range rails {
				for _, a := range to.addrs {
					if to.pod != from.pod && a.Is4() == src.Is4() {
						targets = append(targets, a)
					}
				}
			}
			count += len(targets)
			g.Go(func() error {
				if err := ping(ctx, from.sandbox.host.Node, from.sandbox.netns, railLink, src, targets); err != nil {
					return fmt.Errorf("pod %s on %s: %w", from.pod, from.node, err)
				}
				return nil
			})
		}
	}
	return count, g.Wait()
}

// mirrored is nil when the blocks' status shows that many leases.
func (d *demo) mirrored(ctx context.Context, want int) error {
	blocks, err := d.network.blocks(ctx)
	if err != nil {
		return err
	}
	leased := 0
	for _, b := range blocks {
		leased += len(b.Status.Leases)
	}
	if leased != want {
		return fmt.Errorf("%d leases in the status of %d blocks, want %d", leased, len(blocks), want)
	}
	return nil
}

// table prints pods with their rails, and blocks.
func (d *demo) table(ctx context.Context, rails []podRail) error {
	blocks, err := d.network.blocks(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fprintln(w, "\nPOD\tNODE\tINTERFACE\tMTU\tMAC\tADDRESS\tBLOCK")
	for _, r := range rails {
		for i, a := range r.addrs {
			if i == 0 {
				fprintln(w, strings.Join([]string{r.pod, r.node, railLink, fmt.Sprint(r.mtu), r.mac, a.String(), r.blocks[i]}, "\t"))
				continue
			}
			fprintln(w, strings.Join([]string{"", "", "", "", "", a.String(), r.blocks[i]}, "\t"))
		}
	}
	if len(rails) == 0 {
		fprintln(w, "(none)")
	}
	_ = w.Flush()
	fprintln(w, "\nBLOCK\tPOOL\tSLOT\tOWNERS\tLEASED\tFREE\tCOOLING")
	for _, block := range blocks {
		fprintln(w, strings.Join([]string{
			block.Name, block.Spec.Pool, block.Spec.Slot, owners(block),
			fmt.Sprint(block.Status.Leased), fmt.Sprint(block.Status.Free), fmt.Sprint(block.Status.Cooling),
		}, "\t"))
	}
	if len(blocks) == 0 {
		fprintln(w, "(none)")
	}
	_ = w.Flush()
	fprintln(&b)
	d.out.Text(b.String())
	return nil
}

func owners(b ipamv1alpha1.IPBlock) string {
	var names []string
	for _, s := range b.Spec.Shares {
		names = append(names, s.Node)
	}
	return strings.Join(names, ",")
}
