// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/railyard-net/railyard/netdef/conf"
)

func TestParse(t *testing.T) {
	pool := conf.Known{CNIVersion: "1.0.0", Name: "n", Paths: conf.Paths{StateDir: "/run/railyard", AgentSocket: "/run/railyard/agent.sock"}}
	own := pool
	own.IPAMType, own.Pool = conf.IPAMType, "rail0"
	moved := own
	moved.Paths = conf.Paths{StateDir: "/a", AgentSocket: "/a/agent.sock"}
	socket := own
	socket.Paths = conf.Paths{StateDir: "/b", AgentSocket: "/c.sock"}
	cases := map[string]struct {
		text string
		want conf.Spec
	}{
		"least":       {`{}`, conf.Spec{Known: pool}},
		"own pool":    {`{"ipam":{"type":"railyard-ipam","pool":"rail0"}}`, conf.Spec{Known: own}},
		"state":       {`{"stateDir":"/a","ipam":{"type":"railyard-ipam","pool":"rail0"}}`, conf.Spec{Known: moved}},
		"state, ipam": {`{"stateDir":"/a","ipam":{"type":"railyard-ipam","pool":"rail0","stateDir":"/b","agentSocket":"/c.sock"}}`, conf.Spec{Known: socket}},
		"no ipam":     {`{"ipam":{}}`, conf.Spec{Known: pool}},
		"unknown key": {`{"colour":"blue","ipam":null,"prevResult":null}`, conf.Spec{Known: pool}},
		"link": {
			`{"master":"rail0","mode":"vepa","mtu":9000,"mac":"02:00:00:00:00:0A","bcqueuelen":7,"deviceID":"0000:3b:00.0"}`,
			conf.Spec{Known: pool, Mode: "vepa", MAC: []byte{2, 0, 0, 0, 0, 10}, BCQueueLen: 7,
				DeviceID: "0000:3b:00.0", DevicePCI: "0000:3b:00.0", Rails: []conf.RailSpec{{Master: "rail0", MTU: 9000}}},
		},
		"runtime first": {
			`{"mac":"02:00:00:00:00:01","deviceID":"a","args":{"cni":{"mac":"02:00:00:00:00:02","ips":["10.0.0.1"]}},
			 "runtimeConfig":{"mac":"02:00:00:00:00:03","ips":["10.0.0.7/8","fd00::7"],"deviceID":"b","CNIDeviceInfoFile":"/f"}}`,
			conf.Spec{Known: pool, MAC: []byte{2, 0, 0, 0, 0, 3}, RuntimeMAC: true, DeviceID: "b", DeviceInfoFile: "/f",
				Static: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}},
		},
		"ipvlan":      {`{"kind":"ipvlan","master":"rail0"}`, conf.Spec{Known: pool, Kind: "ipvlan", Mode: "l2", Rails: []conf.RailSpec{{Master: "rail0"}}}},
		"host-device": {`{"kind":"host-device","device":"enp59s0","rdma":"required"}`, conf.Spec{Known: pool, Kind: "host-device", RDMA: "required", Rails: []conf.RailSpec{{Device: "enp59s0"}}}},
		"of Multus":   {`{"kind":"host-device","pciBusID":"0000:3b:00.2"}`, conf.Spec{Known: pool, Kind: "host-device", DeviceID: "0000:3b:00.2", DevicePCI: "0000:3b:00.2"}},
		"hwaddr":      {`{"kind":"host-device","hwaddr":"02:00:00:00:00:0a"}`, conf.Spec{Known: pool, Kind: "host-device", HWAddr: []byte{2, 0, 0, 0, 0, 10}}},
		"sriov": {
			`{"kind":"sriov","deviceID":"0000:3b:00.2","vlan":7,"vlanQoS":3,"vlanProto":"802.1Q","spoofchk":"off","trust":"on","link_state":"enable","min_tx_rate":0,"max_tx_rate":100}`,
			conf.Spec{Known: pool, Kind: "sriov", DeviceID: "0000:3b:00.2", DevicePCI: "0000:3b:00.2", VF: conf.VF{
				VLAN: new(7), QoS: new(3), Proto: "802.1q", SpoofChk: new(false), Trust: new(true), LinkState: "enable", MinRate: new(0), MaxRate: new(100)}},
		},
		"ipoib": {
			`{"kind":"ipoib","master":"ib0","pkey":"0x8001","mode":"connected"}`,
			conf.Spec{Known: pool, Kind: "ipoib", Mode: "connected", PKey: 0x8001, Rails: []conf.RailSpec{{Master: "ib0"}}},
		},
		"chained": {`{"kind":"chained","prevResult":{}}`, conf.Spec{Known: pool, Kind: "chained", PrevResult: []byte("{}")}},
		"rails": {
			`{"mtu":9000,"ipam":{"type":"railyard-ipam","pool":"rail0"},"rails":[{"master":"a"},{"master":"0000:3b:00.0","pool":"p","table":7},{"interface":"x","master":"b","mtu":1500}]}`,
			conf.Spec{Known: own, Rails: []conf.RailSpec{{Master: "a", MTU: 9000, Pool: "rail0", Table: 1000, AutoTable: true},
				{IfName: "-2", Master: "0000:3b:00.0", MTU: 9000, Pool: "p", Table: 7}, {IfName: "x", Master: "b", MTU: 1500, Pool: "rail0", Table: 1002, AutoTable: true}}},
		},
		"rails chosen": {
			`{"roceToS":106,"rails":[{"label":"leaf-0"},{"auto":true,"roceToS":0,"colour":"blue"}]}`,
			conf.Spec{Known: pool, Rails: []conf.RailSpec{{Label: "leaf-0", ToS: new(uint8(106)), Table: 1000, AutoTable: true},
				{IfName: "-2", Auto: true, ToS: new(uint8(0)), Table: 1001, AutoTable: true}}},
		},
		"ToS": {`{"roceToS":255,"rdma":"required"}`, conf.Spec{Known: pool, RDMA: "required", Rails: []conf.RailSpec{{ToS: new(uint8(255))}}}},
		"GUID": {
			`{"kind":"sriov","runtimeConfig":{"infinibandGUID":"02:11:22:33:44:55:66:77"}}`,
			conf.Spec{Known: pool, Kind: "sriov", GUID: []byte{2, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77}},
		},
		"sysctl": {
			`{"sysctl":{"net.ipv4.conf.IFNAME.arp_ignore":"1","net/ipv4/conf/all/rp_filter":"2"}}`,
			conf.Spec{Known: pool, Sysctls: []conf.Sysctl{
				{Key: "net/ipv4/conf/IFNAME/arp_ignore", Value: "1"}, {Key: "net/ipv4/conf/all/rp_filter", Value: "2"},
			}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.want.Kind, c.want.RDMA = cmp.Or(c.want.Kind, conf.KindMacvlan), cmp.Or(c.want.RDMA, conf.RDMAAuto)
			if c.want.Kind == conf.KindMacvlan {
				c.want.Mode = cmp.Or(c.want.Mode, conf.ModeBridge)
			}
			if c.want.Rails == nil {
				c.want.Rails = []conf.RailSpec{{Pool: c.want.Pool}}
			}
			got, err := conf.Parse([]byte(`{"cniVersion":"1.0.0","name":"n","type":"railyard",`+strings.TrimPrefix(c.text, "{")), "")
			if name == "least" {
				got, err = conf.Parse([]byte(`{"cniVersion":"1.0.0","name":"n"}`), "")
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(c.want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestParseErrors: every error names its field; all fields are reported at once.
func TestParseErrors(t *testing.T) {
	_, err := conf.Parse([]byte(`{"name":"a/b","kind":"x","mode":"y","mtu":1,"master":"a b","mac":"z","sysctl":{"a":"1"},
		"stateDir":"s","agentSocket":"t","ipam":{"type":"railyard-ipam"},"runtimeConfig":{"ips":["q"],"CNIDeviceInfoFile":"f"},"prevResult":1}`), "")
	for _, field := range []string{"name", "kind", "mode", "mtu", "master", "mac", "sysctl.a", "stateDir", "agentSocket", "ipam.pool",
		"runtimeConfig.ips[0]", "runtimeConfig.CNIDeviceInfoFile", "prevResult"} {
		if !strings.Contains(err.Error(), field+": ") {
			t.Errorf("nothing on %s in %v", field, err)
		}
	}
	_, err = conf.Parse([]byte(`{"name":"n","linkInContainer":true,"kind":"host-device","mode":"l2","master":"x","vlan":4095,"vlanQoS":8,"vlanProto":"x","spoofchk":"yes","trust":"1",
		"link_state":"up","min_tx_rate":9,"max_tx_rate":-1,"pkey":"0","rdma":"x","hwaddr":"q","bcqueuelen":3,"runtimeConfig":{"infinibandGUID":"00:00:00:00:00:00:00:00"},
		"rails":[{"device":"a b","mtu":7,"table":254,"pool":"x"},{"interface":"a/b","master":"y"},{"interface":"n","table":9},{"interface":"n","table":9}]}`), "")
	for _, field := range []string{"linkInContainer", "mode", "master", "vlan", "vlanQoS", "vlanProto", "spoofchk", "trust", "link_state", "max_tx_rate", "pkey", "rdma", "hwaddr",
		"bcqueuelen", "runtimeConfig.infinibandGUID", "rails[0].device", "rails[0].mtu", "rails[0].table", "rails[0].pool", "rails[1].interface", "rails[1].master",
		"rails[3].interface", "rails[3].table"} {
		if !strings.Contains(err.Error(), field+": ") {
			t.Errorf("nothing on %s in %v", field, err)
		}
	}
	var f *conf.FieldError
	if !errors.As(err, &f) || f.Field == "" || f.Detail == "" {
		t.Errorf("no FieldError: %v", err)
	}
	for _, text := range []string{"", "{", "[]", `"x"`, "7", "{}x", "\xff"} {
		if _, err := conf.Parse([]byte(text), ""); !errors.Is(err, conf.ErrSyntax) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, field := range map[string]string{
		`{"mtu":"9"}`: "mtu", `{"mtu":1.5}`: "mtu", `{"bcqueuelen":-1}`: "bcqueuelen", `{"ipam":7}`: "ipam",
		`{"ipam":{"type":7}}`: "ipam.type", `{"ipam":{"pool":"rail0"}}`: "ipam.type", `{"runtimeConfig":{"ips":"x"}}`: "runtimeConfig.ips", `{"sysctl":{"net.a.b":1}}`: "sysctl",
		`{"args":{"cni":{"mac":7}}}`: "args.cni.mac", `{"capabilities":[]}`: "capabilities",
		`{"roceToS":256}`: "roceToS", `{"roceToS":-1}`: "roceToS", `{"roceToS":7,"rdma":"off"}`: "roceToS", `{"roceToS":7,"kind":"ipoib"}`: "roceToS",
		`{"rails":[{},{"roceToS":256}]}`: "rails[1].roceToS", `{"rails":[null]}`: "rails[0]", `{"rails":[{}, null ]}`: "rails[1]",
		`{"rails":[{"label":"a b"}]}`: "rails[0].label", `{"rails":[{"label":"a","auto":true}]}`: "rails[0].label", `{"rails":[{"auto":true,"master":"x"}]}`: "rails[0].label",
		`{"kind":"host-device","runtimeConfig":{"infinibandGUID":"00:00:00:00:00:00:00:00"}}`:                    "runtimeConfig.infinibandGUID",
		`{"kind":"host-device","runtimeConfig":{"infinibandGUID":"ff:ff:ff:ff:ff:ff:ff:ff"}}`:                    "runtimeConfig.infinibandGUID",
		`{"kind":"host-device","runtimeConfig":{"infinibandGUID":"02:00:00:00:00:01"}}`:                          "runtimeConfig.infinibandGUID",
		`{"kind":"ipoib","runtimeConfig":{"infinibandGUID":"02:11:22:33:44:55:66:77"}}`:                          "runtimeConfig.infinibandGUID",
		`{"kind":"sriov","rails":[{"device":"a"}],"runtimeConfig":{"infinibandGUID":"02:11:22:33:44:55:66:77"}}`: "runtimeConfig.infinibandGUID",
	} {
		_, err := conf.Parse([]byte(`{"name":"n",`+text[1:]), "")
		if !errors.As(err, &f) || f.Field != field {
			t.Errorf("%s: %v, want an error on %s", text, err, field)
		}
	}
}

// TestParseErrors_Bounded: whatever is wrong with a config, its errors fit into an event.
func TestParseErrors_Bounded(t *testing.T) {
	ctl, rails := map[string]string{}, []map[string]any{}
	for i := range 5000 {
		ctl[fmt.Sprintf("bad.%d.%s", i, strings.Repeat("x", 1000))] = "1"
		rails = append(rails, map[string]any{"mtu": 1, "table": 254})
	}
	text, err := json.Marshal(map[string]any{"name": "n", "sysctl": ctl, "rails": rails, "runtimeConfig": map[string]any{"ips": slices.Repeat([]string{"x"}, 5000)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = conf.Parse(text, "")
	if got := strings.Count(err.Error(), "\n"); got > 70 || len(err.Error()) > 20000 || !strings.Contains(err.Error(), "more errors") {
		t.Errorf("%d lines, %d bytes", got, len(err.Error()))
	}
	if _, err = conf.ParseIPAM(text, ""); strings.Count(err.Error(), "\n") > 70 {
		t.Errorf("%d bytes", len(err.Error()))
	}
}

func TestParseKnown(t *testing.T) {
	k, err := conf.ParseKnown([]byte(`{"cniVersion":"1.0.0","name":"n","type":"railyard","ipam":{"type":"railyard-ipam"}}`), "/s")
	want := conf.Known{CNIVersion: "1.0.0", Name: "n", IPAMType: conf.IPAMType, Paths: conf.Paths{StateDir: "/s", AgentSocket: "/s/agent.sock"}}
	if err != nil || k != want {
		t.Errorf("%+v %v", k, err)
	}
	k, err = conf.ParseKnown([]byte(`{"name":"n","mtu":"x","ipam":[],"runtimeConfig":7,"master":{}}`), "")
	if err != nil || k.IPAMType != "" || k.StateDir != conf.DefaultStateDir {
		t.Errorf("%+v %v", k, err)
	}
}

func TestParseIPAM(t *testing.T) {
	got, err := conf.ParseIPAM([]byte(`{"cniVersion":"1.0.0","name":"n","type":"bridge","master":7,
		"ipam":{"type":"railyard-ipam","pool":"p"},"runtimeConfig":{"ips":["10.0.0.7/24"]}}`), "")
	if err != nil || got.Pool != "p" || len(got.Static) != 1 || got.Store() != "/run/railyard/ipam.db" {
		t.Errorf("%+v %v", got, err)
	}
	for text, field := range map[string]string{
		`{"name":"n"}`: "ipam.type", `{"name":"n","ipam":{"type":"other"}}`: "ipam.type", `{"name":"n","ipam":{"type":"railyard-ipam"}}`: "ipam.pool",
	} {
		var f *conf.FieldError
		if _, err := conf.ParseIPAM([]byte(text), ""); !errors.As(err, &f) || f.Field != field {
			t.Errorf("%s: %v, want an error on %s", text, err, field)
		}
	}
}

func TestParseValidAttachments(t *testing.T) {
	for text, want := range map[string]int{`null`: 0, `[]`: 0, `[{"containerID":"c","ifname":"i"}]`: 1, `[{"containerID":"c"}]`: -1, `{}`: -1} {
		got, err := conf.ParseValidAttachments([]byte(`{"cni.dev/valid-attachments":` + text + `}`))
		if len(got) != max(want, 0) || (err != nil) != (want < 0) {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	if _, err := conf.ParseValidAttachments([]byte(`{}`)); err == nil {
		t.Error("no list must not mean an empty list")
	}
}

// TestRendered: what the renderer writes is what the parser reads.
func TestRendered(t *testing.T) {
	b, err := json.Marshal(conf.Config{CNIVersion: "1.0.0", Name: "n", Type: conf.Type, Kind: conf.KindMacvlan, Master: "rail0",
		IPAM: conf.FromPool("rail0"), Capabilities: map[string]bool{conf.CapabilityIPs: true}})
	want := `{"cniVersion":"1.0.0","name":"n","type":"railyard","kind":"macvlan","master":"rail0","ipam":{"type":"railyard-ipam","pool":"rail0"},"capabilities":{"ips":true}}`
	if err != nil || string(b) != want {
		t.Errorf("%s %v", b, err)
	}
	if s, err := conf.Parse(b, ""); err != nil || s.Pool != "rail0" {
		t.Errorf("%+v %v", s, err)
	}
}

// FuzzParse: no input panics; a config that is accepted keeps its promises; what Parse accepts, ParseKnown reads alike.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/seeds/*.json")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = conf.ParseIPAM(data, "")
		_, _ = conf.ParseValidAttachments(data)
		s, err := conf.Parse(data, "")
		if err != nil {
			var field *conf.FieldError
			if !errors.Is(err, conf.ErrSyntax) && !errors.As(err, &field) {
				t.Fatalf("an error of no type: %v", err)
			}
			return
		}
		k, err := conf.ParseKnown(data, "")
		if k.Pool = s.Pool; err != nil || k != s.Known {
			t.Fatalf("ParseKnown: %+v %v, Parse: %+v", k, err, s.Known)
		}
		for _, c := range s.Sysctls {
			if p := c.Path("net1"); !strings.HasPrefix(p, "net/") || filepath.Clean(p) != p {
				t.Fatalf("sysctl path %q", p)
			}
		}
		if s.Name == "" || s.Kind == "" || s.RDMA == "" || !filepath.IsAbs(s.AgentSocket) || len(s.Static) > 2 || len(s.Rails) == 0 {
			t.Fatalf("accepted: %+v", s)
		}
		names := map[string]bool{}
		for _, r := range s.Rails {
			if names[r.Name("net1")] || strings.Contains(r.Master+r.Device+r.Name("net1"), "/") || s.Multi() != (r.Table != 0) {
				t.Fatalf("accepted: %+v", s)
			}
			names[r.Name("net1")] = true
			if (r.Label != "" || r.Auto) && r.Master+r.Device != "" || r.Label != "" && r.Auto || r.ToS != nil && s.RDMA == conf.RDMAOff {
				t.Fatalf("accepted: %+v", s)
			}
		}
	})
}
