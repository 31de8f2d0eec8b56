// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
	"github.com/railyard-net/railyard/netdef/conf"
)

const (
	// OwnerAnnotation on a NetworkAttachmentDefinition says which network it was rendered from, and for which namespace; see Owner.
	OwnerAnnotation = "railyard.dev/owner"
	// NetworkLabel holds the network's name, for selectors.
	NetworkLabel = "railyard.dev/network"
	// DefaultCNIVersion is rendered where the resource names none: objects that were stored before the field existed.
	DefaultCNIVersion = "1.0.0"
)

// capabilities are what a pod may ask for in its annotation, and a device plugin may hand in.
var capabilities = []string{conf.CapabilityIPs, conf.CapabilityMAC, conf.CapabilityDeviceID, conf.CapabilityDeviceInfoFile}

// Owner is the value of OwnerAnnotation on n's definition in namespace. It names the place, so that a copy that somebody makes in
// another namespace is not taken for n's.
func Owner(n *v1alpha1.MacvlanNetwork, namespace string) string {
	return fmt.Sprintf("macvlannetwork.%s/%s in %s", v1alpha1.GroupVersion.Group, n.Name, namespace)
}

// Macvlan renders n. The result shares nothing with n.
func Macvlan(n *v1alpha1.MacvlanNetwork) (*nadv1.NetworkAttachmentDefinition, error) {
	var errs []error
	if n.Name == "" || len(n.Name) > v1alpha1.MaxNameLength {
		errs = append(errs, fieldErrorf("metadata.name", "has %d characters: use 1 to %d", len(n.Name), v1alpha1.MaxNameLength))
	}
	ipam, err := ipamSection(n)
	errs = append(errs, err)
	meta, err := parseMetaPlugins("spec.metaPlugins", n.Spec.MetaPlugins)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	text, err := encode(n, plugin(n, ipam), meta)
	if err != nil {
		return nil, err
	}
	namespace := n.Spec.Namespace()
	return &nadv1.NetworkAttachmentDefinition{
		TypeMeta: metav1.TypeMeta{APIVersion: nadv1.SchemeGroupVersion.String(), Kind: "NetworkAttachmentDefinition"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   namespace,
			Name:        n.Name,
			Labels:      map[string]string{NetworkLabel: n.Name},
			Annotations: map[string]string{OwnerAnnotation: Owner(n, namespace)},
		},
		Spec: nadv1.NetworkAttachmentDefinitionSpec{Config: text},
	}, nil
}

// PoolName is the pool that n's pods lease from, by spec.pool or by a spec.ipam of Railyard's own type; empty if there is none, or if
// spec.ipam cannot be read.
func PoolName(n *v1alpha1.MacvlanNetwork) string {
	raw, err := ipamSection(n)
	if err != nil || raw == nil {
		return ""
	}
	var section conf.PoolIPAM
	if json.Unmarshal(raw, &section) != nil || section.Type != conf.IPAMType {
		return ""
	}
	return section.Pool
}

func ipamSection(n *v1alpha1.MacvlanNetwork) (json.RawMessage, error) {
	written := strings.TrimSpace(n.Spec.IPAM) != ""
	switch {
	case n.Spec.Pool != nil && written:
		return nil, fieldErrorf("spec.ipam", "is set together with spec.pool: keep pool for Railyard's addresses, or ipam for another IPAM plugin's")
	case n.Spec.Pool != nil && n.Spec.Pool.Name == "":
		return nil, fieldErrorf("spec.pool.name", "is empty: write the name of an IPPool")
	case n.Spec.Pool != nil:
		return conf.FromPool(n.Spec.Pool.Name), nil
	}
	return parseIPAM("spec.ipam", n.Spec.IPAM)
}

func plugin(n *v1alpha1.MacvlanNetwork, ipam json.RawMessage) conf.Config {
	c := conf.Config{
		Type:         conf.Type,
		Kind:         conf.KindMacvlan,
		Master:       n.Spec.Master,
		Mode:         n.Spec.Mode,
		MTU:          int(n.Spec.MTU),
		IPAM:         ipam,
		Capabilities: map[string]bool{},
	}
	if c.Mode == "" {
		c.Mode = conf.ModeBridge
	}
	for _, name := range capabilities {
		c.Capabilities[name] = true
	}
	return c
}

// encode gives the single-plugin form, or the list form if there are plugins to run after ours.
func encode(n *v1alpha1.MacvlanNetwork, own conf.Config, meta []json.RawMessage) (string, error) {
	version := n.Spec.CNIVersion
	if version == "" {
		version = DefaultCNIVersion
	}
	single := own
	single.CNIVersion, single.Name = version, n.Name
	text, err := marshal(single)
	if err != nil {
		return "", err
	}
	if _, err := conf.Parse(text, ""); err != nil {
		return "", translate(n, err)
	}
	if len(meta) == 0 {
		return string(text), nil
	}
	first, err := marshal(own)
	if err != nil {
		return "", err
	}
	text, err = marshal(conf.List{CNIVersion: version, Name: n.Name, Plugins: append([]json.RawMessage{first}, meta...)})
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
func translate(n *v1alpha1.MacvlanNetwork, err error) error {
	var list interface{ Unwrap() []error }
	if errors.As(err, &list) {
		var out []error
		for _, e := range list.Unwrap() {
			out = append(out, translate(n, e))
		}
		return errors.Join(out...)
	}
	var field *conf.FieldError
	if !errors.As(err, &field) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	path := "spec." + field.Field
	switch {
	case field.Field == "name":
		path = "metadata.name"
	case field.Field == "ipam.pool" && n.Spec.Pool != nil:
		path = "spec.pool.name"
	}
	return &FieldError{Field: path, Detail: field.Detail}
}
