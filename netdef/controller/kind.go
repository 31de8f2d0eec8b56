// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/railyard-net/railyard/netdef/api/v1alpha1"
)

// kind is one kind of network. All that is known of it comes from its type: a further kind needs nothing in this package.
type kind struct {
	schema.GroupVersionKind
	empty v1alpha1.Network
}

func kinds() []kind {
	var out []kind
	for _, n := range v1alpha1.Networks() {
		out = append(out, kind{v1alpha1.GroupVersion.WithKind(v1alpha1.KindOf(n)), n})
	}
	return out
}

func (k kind) String() string { return k.Kind }

// name is that of the kind's controller in logs and metrics.
func (k kind) name() string { return Name + "-" + strings.ToLower(k.Kind) }

// object is a new one, empty.
func (k kind) object() v1alpha1.Network { return copyOf(k.empty) }

// list is a new list of the kind, empty.
func (k kind) list(scheme *runtime.Scheme) (client.ObjectList, error) {
	o, err := scheme.New(k.GroupVersion().WithKind(k.Kind + "List"))
	if err != nil {
		return nil, err
	}
	list, ok := o.(client.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%T is no list of objects", o)
	}
	return list, nil
}

func copyOf(n v1alpha1.Network) v1alpha1.Network { return n.DeepCopyObject().(v1alpha1.Network) }
