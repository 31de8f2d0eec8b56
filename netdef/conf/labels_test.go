// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/railyard-net/railyard/netdef/conf"
)

func TestParseLabels(t *testing.T) {
	many := func(n int) string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf(`"l%d":"n%d"`, i, i))
		}
		return strings.Join(out, ",")
	}
	for text, want := range map[string]conf.Labels{
		`{"version":1}`:            {},
		`{"version":1,"rails":{}}`: {},
		`{"version":1,"rails":{"leaf-0":"0000:3b:00.0","x_1.a":"ens1f0"}}`: {"leaf-0": "0000:3b:00.0", "x_1.a": "ens1f0"},
	} {
		got, err := conf.ParseLabels([]byte(text))
		if diff := gocmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
	for text, field := range map[string]string{
		`{}`: "version", `{"version":2}`: "version", `{"version":1,"rails":{"a b":"x"}}`: "rails.a b", `{"version":1,"rails":{"a":"x","a":"x"}}`: "rails.a",
		`{"version":1,"rails":{"a":""}}`: "rails.a", `{"version":1,"rails":{"a":null}}`: "rails.a", `{"version":1,"rails":{"a":7}}`: "rails.a",
		`{"version":1,"rails":{"a":"x/y"}}`: "rails.a", `{"version":1,"rails":[]}`: "rails", `{"version":1,"rails":{` + many(257) + `}}`: "rails",
	} {
		var f *conf.FieldError
		if _, err := conf.ParseLabels([]byte(text)); !errors.As(err, &f) || f.Field != field {
			t.Errorf("%.60s: %v, want an error on %s", text, err, field)
		}
	}
	for _, text := range []string{"", "[]", `{"version":1}{}`, `{"version":"1"}`, `{"version":1,"rals":{}}`, `{"version":1,"rails":{"a":"b"`} {
		if _, err := conf.ParseLabels([]byte(text)); !errors.Is(err, conf.ErrSyntax) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseLabels(f *testing.F) {
	for _, text := range []string{
		`{"version":1,"rails":{"leaf-0":"0000:3b:00.0","leaf-1":"ens1f0"}}`, `{"version":1,"rails":{"a":"b","a":"c"}}`, `{"version":1,"rails":null}`, `{"rails":{"a":[{}]}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		labels, err := conf.ParseLabels(data)
		var field *conf.FieldError
		if err != nil && !errors.Is(err, conf.ErrSyntax) && !errors.As(err, &field) {
			t.Fatalf("an error of no type: %v", err)
		}
		for label, nic := range labels {
			if conf.CheckLabel("l", label) != nil || nic == "" || conf.CheckMaster("m", nic) != nil {
				t.Fatalf("accepted: %q for %q", nic, label)
			}
		}
	})
}
