// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"encoding/json"
	"errors"
	"slices"
)

// Find reads every ipam section of a NetworkAttachmentDefinition's config that is whereabouts' or nv-ipam's: the
// config's own, those of a list's plugins, and those of configs that lie in others. The name stands in for a config's
// missing one. What is no JSON at all has none: whoever makes pods with it learns so from Multus.
func Find(text, name string) ([]Call, error) {
	var root any
	if json.Unmarshal([]byte(text), &root) != nil {
		return nil, nil //nolint:nilerr // as said above
	}
	var out []Call
	var errs []error
	walk(root, name, func(section map[string]any, name string) {
		data, err := json.Marshal(map[string]any{"name": name, "ipam": section})
		if err == nil {
			var c Call
			if c, err = Parse(Input{Config: data}); err == nil {
				out = append(out, c)
			}
		}
		errs = append(errs, err)
	})
	return out, errors.Join(errs...)
}

// walk visits the sections below v; name is that of the config around.
func walk(v any, name string, visit func(section map[string]any, name string)) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			walk(x, name, visit)
		}
	case map[string]any:
		if own, _ := v["name"].(string); own != "" {
			name = own
		}
		if s, ok := v["ipam"].(map[string]any); ok {
			if kind, _ := s["type"].(string); Is(kind) {
				visit(s, name)
			}
		}
		keys := make([]string, 0, len(v))
		for key := range v {
			if key != "args" && key != "runtimeConfig" {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		for _, key := range keys {
			walk(v[key], name, visit)
		}
	}
}
