// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// otherIPAM is an IPAM plugin of somebody else's: it keeps a file for each lease, and refuses what a real one refuses.
// The files fail-ADD and the like beside it make a verb fail.
const otherIPAM = `
lease="$STATE/lease-$CNI_CONTAINERID-$CNI_IFNAME"
stdin=$(cat)
fail() { echo "{\"cniVersion\":\"1.0.0\",\"code\":$1,\"msg\":\"$2\"}"; exit 1; }
[ -e "$STATE/fail-$CNI_COMMAND" ] && fail 142 "made to fail"
echo "$stdin" | grep -q '"range"' || [ "$CNI_COMMAND" = STATUS ] || fail 7 "ipam has no range"
case "$CNI_COMMAND" in
ADD)
	[ -e "$lease" ] && fail 143 "leased twice"
	echo "$CNI_NETNS $CNI_ARGS" >"$lease"
	[ -e "$STATE/empty" ] && { echo '{"cniVersion":"0.4.0"}'; exit 0; }
	[ -e "$STATE/garbage" ] && { echo 'hello'; exit 0; }
	echo '{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.20.9.9/16","gateway":"10.20.0.1"}],
		"routes":[{"dst":"10.88.0.0/16"}],"dns":{"nameservers":["10.0.0.1"]}}' | sed "s/10.20.0.1\"/$(cat "$STATE/gw" 2>/dev/null || echo 10.20.0.1)\"/"
	;;
DEL) rm -f "$lease" ;;
CHECK) [ -e "$lease" ] || fail 144 "no lease" ;;
GC) touch "$STATE/gc" ;;
esac
`

func (l *lab) useOther() {
	l.script("other", otherIPAM)
	l.conf["ipam"] = map[string]any{"type": "other", "range": "10.20.9.0/24"}
	l.conf["cniVersion"] = "1.1.0"
}

// touch and remove make and end a condition for otherIPAM.
func (l *lab) touch(name, text string) {
	must(l.t, os.WriteFile(filepath.Join(l.bin, name), []byte(text), 0o600))
}

func (l *lab) remove(name string) { must(l.t, os.Remove(filepath.Join(l.bin, name))) }

func (l *lab) otherLeases() []string {
	found, err := filepath.Glob(filepath.Join(l.bin, "lease-*"))
	must(l.t, err)
	return found
}

func testForeignIPAM(t *testing.T, l *lab, pod *space, c call) {
	l.useOther()
	c.conf = map[string]any{"cniVersion": "0.4.0"}
	r := l.add(c)
	if len(r.IPs) != 1 || r.IPs[0].Address.String() != "10.20.9.9/16" || *r.IPs[0].Interface != 0 || r.DNS.Nameservers[0] != "10.0.0.1" {
		t.Errorf("%v %v", r.IPs, r.DNS)
	}
	routes, err := pod.link.RouteList(pod.get("net1"), netlink.FAMILY_V4)
	must(t, err)
	found := false
	for _, x := range routes {
		found = found || x.Dst.String() == "10.88.0.0/16" && x.Gw.String() == gateway4 // as the reference plugins do
	}
	b, err := os.ReadFile(l.otherLeases()[0])
	must(t, err)
	if want := pod.path + " " + c.args + "\n"; !found || string(b) != want {
		t.Errorf("routes %v; its environment %q, want %q", routes, b, want)
	}
	c.verb = "CHECK"
	l.mustRun(c)
	must(t, os.Remove(l.otherLeases()[0]))
	l.mustFail(144, "no lease", c)
	c.verb = "DEL"
	l.mustRun(call{verb: "DEL", id: c.id, ifName: c.ifName, stdin: `{"cniVersion":"0.4.0","name":"rail0","type":"railyard","ipam":{"type":"other"}}`})
	c.verb = "ADD"
	l.mustFail(dispatch.CodeDelegate, "no nosuch in CNI_PATH", c.with(map[string]any{"ipam": map[string]any{"type": "nosuch"}}))
}
