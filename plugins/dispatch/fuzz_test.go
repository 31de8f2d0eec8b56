// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package dispatch_test

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// FuzzDecodeResult: whatever another plugin, or a runtime with a prevResult, hands over, is refused or can be printed at every version
// from 0.3.0 on, and read again as the same.
func FuzzDecodeResult(f *testing.F) {
	for _, v := range append(dispatch.Versions(), "0.2.0", "") {
		f.Add([]byte(`{"cniVersion":"`+v+`","interfaces":[{"name":"net1","sandbox":"/x","mac":"02:00:00:00:00:01","mtu":9}],
			"ips":[{"version":"4","address":"10.0.0.1/8","gateway":"10.0.0.2","interface":0}],"routes":[{"dst":"::/0","gw":"fe80::1","table":7}],
			"ip4":{"ip":"10.0.0.1/8"},"ip6":{"ip":"fd00::1/64","routes":[{"dst":"fd00::/8"}]},"dns":{"nameservers":["10.0.0.3"]}}`), v)
	}
	f.Add([]byte(`{"ips":[null,{}],"routes":[{"dst":""}],"interfaces":[null]}`), "1.1.0")
	f.Fuzz(func(t *testing.T, data []byte, version string) {
		r, err := dispatch.DecodeResult(data, version)
		if err != nil {
			return
		}
		for _, v := range dispatch.Versions() {
			b, err := dispatch.Encode(r, v)
			if err != nil {
				t.Fatalf("not printed at %s: %v: %s", v, err, data)
			}
			again, err := dispatch.DecodeResult(b, "")
			if err != nil || len(again.IPs) != len(r.IPs) || len(again.Routes) != len(r.Routes) || len(again.Interfaces) != len(r.Interfaces) {
				t.Fatalf("at %s %+v became %+v (%v): %s", v, r, again, err, data)
			}
		}
	})
}

// FuzzRun: whatever a runtime calls a plugin with, the answer is its result, or a JSON error with a code that has a meaning.
func FuzzRun(f *testing.F) {
	f.Add("DEL", "c1", "net1", "/gone", "K8S_POD_NAME=p;X=", []byte(config))
	f.Add("CHECK", "-", "a/b", "\x00", ";;=", []byte(`{"cniVersion":"0.3.1","name":"n","type":"t"}`))
	f.Add("GC", "", "", "", "", []byte(`[]`))
	f.Add("VERSION", "", "", "", "", []byte(``))
	f.Fuzz(func(t *testing.T, verb, id, ifName, netns, args string, stdin []byte) {
		env := map[string]string{"CNI_COMMAND": verb, "CNI_CONTAINERID": id, "CNI_IFNAME": ifName, "CNI_NETNS": netns, "CNI_ARGS": args}
		var out strings.Builder
		rc := dispatch.Run(t.Context(), failing(nil), func(k string) string { return env[k] }, strings.NewReader(string(stdin)), &out, io.Discard)
		if rc == 0 {
			return
		}
		var e types.Error
		if err := json.Unmarshal([]byte(out.String()), &e); err != nil || e.Code == 0 || e.Code == dispatch.CodeBug || e.Msg == "" {
			t.Errorf("rc %d: %s (%v)", rc, out.String(), err)
		}
	})
}
