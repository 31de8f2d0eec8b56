// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/conf"
)

const (
	// OwnerAnnotation on a NetworkAttachmentDefinition says which network it was rendered from, and for which namespace; see Owner.
	OwnerAnnotation = "railyard.dev/owner"
	// AlsoAnnotation names, with commas between, the annotations of other domains that were rendered: those of them that are rendered
	// no more are to be removed, and no others.
	AlsoAnnotation = "railyard.dev/also-annotated"
	// ResourceAnnotation tells Multus whose devices the network's pods have.
	ResourceAnnotation = "k8s.v1.cni.cncf.io/resourceName"
	// NetworkLabel holds the network's name, for selectors.
	NetworkLabel = "railyard.dev/network"
	// DefaultCNIVersion is rendered where the resource names none: objects that were stored before the field existed.
	DefaultCNIVersion = "1.0.0"
)

// Owner is the value of OwnerAnnotation on n's definition in namespace. It names the place, so that a copy that somebody makes in
// another namespace is not taken for n's.
func Owner(n v1alpha1.Network, namespace string) string {
	return fmt.Sprintf("%s.%s/%s in %s", strings.ToLower(v1alpha1.KindOf(n)), v1alpha1.GroupVersion.Group, n.GetName(), namespace)
}

// Network renders n. The result shares nothing with n.
func Network(n v1alpha1.Network) (*nadv1.NetworkAttachmentDefinition, error) {
	spec, _ := n.Common()
	name := n.GetName()
	var errs []error
	if name == "" || len(name) > v1alpha1.MaxNameLength {
		errs = append(errs, fieldErrorf("metadata.name", "has %d characters: use 1 to %d", len(name), v1alpha1.MaxNameLength))
	}
	own, err := linkOf(n)
	errs = append(errs, err)
	own.config.IPAM, err = ipamSection(spec, own.config.Rails)
	errs = append(errs, err)
	meta, err := parseMetaPlugins("spec.metaPlugins", spec.MetaPlugins)
	errs = append(errs, err)
	own.config.RoCEToS = number(spec.RoCEToS)
	own.config.RDMA, err = rdma(spec, meta)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	text, err := encode(n, own.plugin(), meta)
	if err != nil {
		return nil, err
	}
	namespace := spec.Namespace()
	annotations := map[string]string{OwnerAnnotation: Owner(n, namespace)}
	if len(own.annotations) > 0 {
		annotations[AlsoAnnotation] = strings.Join(slices.Sorted(maps.Keys(own.annotations)), ",")
		maps.Copy(annotations, own.annotations)
	}
	return &nadv1.NetworkAttachmentDefinition{
		TypeMeta: metav1.TypeMeta{APIVersion: nadv1.SchemeGroupVersion.String(), Kind: "NetworkAttachmentDefinition"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: map[string]string{NetworkLabel: name}, Annotations: annotations,
		},
		Spec: nadv1.NetworkAttachmentDefinitionSpec{Config: text},
	}, nil
}

// PoolNames are the pools that n's pods lease from, by a typed reference or by a spec.ipam of Railyard's own type; ascending, and none
// if the spec cannot be read.
func PoolNames(n v1alpha1.Network) []string {
	spec, _ := n.Common()
	own, err := linkOf(n)
	if err != nil {
		return nil
	}
	raw, err := ipamSection(spec, own.config.Rails)
	if err != nil || raw == nil {
		return nil
	}
	var section conf.PoolIPAM
	if json.Unmarshal(raw, &section) != nil || section.Type != conf.IPAMType {
		return nil
	}
	names := []string{section.Pool}
	if len(own.config.Rails) > 0 {
		names = nil
	}
	for _, r := range own.config.Rails {
		if r.Pool == "" {
			r.Pool = section.Pool
		}
		names = append(names, r.Pool)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

// ipamSection is what spec says of addresses, as the plugin reads it. Where every one of several rails has a pool of its own, the
// first one's stands for all: the plugin wants one to know whose addresses they are, and leases from each rail's.
func ipamSection(spec *v1alpha1.NetworkSpec, rails []conf.Rail) (json.RawMessage, error) {
	written := strings.TrimSpace(spec.IPAM) != ""
	without := slices.IndexFunc(rails, func(r conf.Rail) bool { return r.Pool == "" })
	pools := slices.ContainsFunc(rails, func(r conf.Rail) bool { return r.Pool != "" })
	switch {
	case spec.Pool != nil && written:
		return nil, fieldErrorf("spec.ipam", "is set together with spec.pool: keep pool for Railyard's addresses, or ipam for another IPAM plugin's")
	case spec.Pool != nil && spec.Pool.Name == "":
		return nil, fieldErrorf("spec.pool.name", "is empty: write the name of an IPPool")
	case spec.Pool != nil:
		return conf.FromPool(spec.Pool.Name), nil
	case written || !pools:
		return parseIPAM("spec.ipam", spec.IPAM)
	case without >= 0:
		return nil, fieldErrorf(fmt.Sprintf("spec.rails[%d].pool", without), "is missing, and there is no spec.pool: other rails have pools; write one here, or spec.pool for all that name none")
	}
	return conf.FromPool(rails[0].Pool), nil
}

// rdmaPlugin moves an RDMA device into the pod, as our plugin does by itself; whoever comes second finds it gone, and fails.
const rdmaPlugin = "rdma"

// rdma is spec.rdma, or off where the chain leaves the matter to another plugin.
func rdma(spec *v1alpha1.NetworkSpec, meta []json.RawMessage) (string, error) {
	for i, raw := range meta {
		var p struct {
			Type string `json:"type"`
		}
		switch err := json.Unmarshal(raw, &p); {
		case err != nil || p.Type != rdmaPlugin || spec.RDMA == conf.RDMAOff:
		case spec.RDMA == "":
			return conf.RDMAOff, nil
		default:
			return "", fieldErrorf("spec.rdma", "is %.80q, and spec.metaPlugins[%d] moves the RDMA device, too: remove that plugin, or write \"off\" here", spec.RDMA, i)
		}
	}
	return spec.RDMA, nil
}

// encode gives the single-plugin form, or the list form if there are plugins to run after ours.
func encode(n v1alpha1.Network, own conf.Config, meta []json.RawMessage) (string, error) {
	spec, _ := n.Common()
	version := spec.CNIVersion
	if version == "" {
		version = DefaultCNIVersion
	}
	single := own
	single.CNIVersion, single.Name = version, n.GetName()
	text, err := marshal(single)
	if err != nil {
		return "", err
	}
	if _, err := conf.Parse(text, ""); err != nil {
		return "", translate(spec, err)
	}
	if len(meta) == 0 {
		return string(text), nil
	}
	first, err := marshal(own)
	if err != nil {
		return "", err
	}
	text, err = marshal(conf.List{CNIVersion: version, Name: n.GetName(), Plugins: append([]json.RawMessage{first}, meta...)})
	return string(text), err
}

// marshal encodes v and leaves <, > and & in strings as they are.
func marshal(v any) (json.RawMessage, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: encode the configuration: %w", ErrInvalid, err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// translate makes the plugin's objections to its configuration ones to the resource.
func translate(spec *v1alpha1.NetworkSpec, err error) error {
	var list interface{ Unwrap() []error }
	if errors.As(err, &list) {
		var out []error
		for _, e := range list.Unwrap() {
			out = append(out, translate(spec, e))
		}
		return errors.Join(out...)
	}
	var field *conf.FieldError
	if !errors.As(err, &field) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	path, detail := field.Field, field.Detail
	for key, name := range sriovFields() {
		if field.Field == key {
			path = "sriov." + name
		}
		detail = strings.ReplaceAll(detail, key, name)
	}
	switch {
	case path == "name":
		path = "metadata.name"
	case path == "ipam.pool" && spec.Pool != nil:
		path = "spec.pool.name"
	default:
		path = "spec." + path
	}
	return &FieldError{Field: path, Detail: detail}
}
