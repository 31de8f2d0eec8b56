// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam/store"
)

// TestConformance_D: DEL succeeds in every state of the world, with the config that Multus leaves of it.
func TestConformance_D(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, l *lab, pod *space, del call){
		"stripped":       func(t *testing.T, l *lab, pod *space, del call) { l.mustRun(del) },
		"twice":          func(t *testing.T, l *lab, pod *space, del call) { l.mustRun(del); l.mustRun(del) },
		"hundred_times":  testDelHundred,
		"netns_empty":    testDelNetnsEmpty,
		"netns_missing":  testDelNetnsMissing,
		"netns_dead":     testDelNetnsDead,
		"netns_is_file":  testDelNetnsFile,
		"netns_another":  testDelNetnsAnother,
		"netns_is_pipe":  testDelNetnsPipe,
		"link_gone":      testDelLinkGone,
		"link_renamed":   testDelLinkRenamed,
		"link_replaced":  testDelLinkReplaced,
		"master_gone":    testDelMasterGone,
		"config_changed": testDelConfigChanged,
		"config_wrong":   testDelConfigWrong,
		"no_journal":     testDelNoJournal,
		"unknown":        testDelUnknown,
		"agent_down":     testDelAgentDown,
		"agent_hangs":    testDelAgentHangs,
		"by_the_socket":  testDelSocket,
		"other_ipam":     testDelOtherIPAM,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pod := newLab(t), newSpace(t)
			before := l.traces(pod)
			l.mustRun(call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path})
			test(t, l, pod, call{verb: "DEL", id: "c1", ifName: "net1", netns: pod.path,
				stdin: `{"cniVersion":"1.1.0","name":"rail0","type":"railyard","ipam":{"type":"railyard-ipam"}}`})
			if pod.ns == nil {
				before.Pod, before.Settings = nil, nil
			}
			if !l.host.has("rail0") {
				before.Host = l.host.links()
			}
			diff := cmp.Diff(before, l.traces(pod))
			if pod.ns == nil { // a dead namespace gives its links back when the kernel gets to it
				end := time.After(20 * time.Second)
				poll := time.NewTicker(50 * time.Millisecond)
				defer poll.Stop()
				for over := false; diff != "" && !over; diff = cmp.Diff(before, l.traces(pod)) {
					select {
					case <-poll.C:
					case <-end:
						over = true
					}
				}
			}
			if diff != "" {
				t.Errorf("DEL did not undo all (-before +after):\n%s", diff)
			}
		})
	}
}

func testDelHundred(t *testing.T, l *lab, pod *space, del call) {
	for range 100 {
		l.mustRun(del)
	}
}

func testDelNetnsEmpty(t *testing.T, l *lab, pod *space, del call) {
	del.netns = ""
	l.mustRun(del)
	if pod.has("net1") {
		t.Error("the journal knows the namespace: the link is to go")
	}
}

func testDelNetnsMissing(t *testing.T, l *lab, pod *space, del call) {
	del.netns = "/no/such/namespace"
	l.mustRun(del)
}

func testDelNetnsDead(t *testing.T, l *lab, pod *space, del call) {
	pod.kill()
	l.mustRun(del)
}

func testDelNetnsFile(t *testing.T, l *lab, pod *space, del call) {
	pod.kill()
	del.netns = filepath.Join(l.dir, "netns-file")
	must(t, os.WriteFile(del.netns, []byte("x"), 0o600))
	l.mustRun(del)
	b, err := os.ReadFile(del.netns)
	if err != nil || string(b) != "x" {
		t.Errorf("the file: %q %v", b, err)
	}
	must(t, os.Remove(del.netns))
	l.mustRun(del)
	if _, err := os.Stat(del.netns); err == nil {
		t.Error("DEL made a file at the namespace's path")
	}
}

// testDelNetnsPipe: where the namespace was is a pipe by now, which nobody must wait for.
func testDelNetnsPipe(t *testing.T, l *lab, pod *space, del call) {
	path := filepath.Join(l.bin, "netns")
	must(t, os.Symlink(pod.path, path))
	l.mustRun(call{verb: "ADD", id: "c2", ifName: "net2", netns: path}.with(map[string]any{"ipam": nil}))
	must(t, os.Remove(path))
	must(t, unix.Mkfifo(path, 0o600))
	writer := time.AfterFunc(10*time.Second, func() {
		if f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			_ = f.Close()
		}
	})
	start := time.Now()
	l.mustRun(call{verb: "DEL", id: "c2", ifName: "net2"})
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("DEL waited %s for the pipe", took)
	}
	writer.Stop()
	must(t, pod.link.LinkDel(pod.get("net2"))) // the namespace at the path is gone, as far as anybody can see
	l.mustRun(del)
}

// testDelNetnsAnother: another pod's namespace is at the path by now, with an interface of the same name.
func testDelNetnsAnother(t *testing.T, l *lab, pod *space, del call) {
	other := newSpace(t)
	l.mustRun(call{verb: "ADD", id: "c2", ifName: "net1", netns: other.path})
	del.netns = other.path
	l.mustRun(del)
	if !other.has("net1") {
		t.Error("DEL took another pod's interface")
	}
	l.mustRun(call{verb: "DEL", id: "c2", ifName: "net1", netns: other.path})
}

func testDelLinkGone(t *testing.T, l *lab, pod *space, del call) {
	must(t, pod.link.LinkDel(pod.get("net1")))
	l.mustRun(del)
}

func testDelLinkRenamed(t *testing.T, l *lab, pod *space, del call) {
	must(t, pod.link.LinkSetName(pod.get("net1"), "rdma7"))
	l.mustRun(del)
	if pod.has("rdma7") {
		t.Error("the renamed interface is still there")
	}
}

func testDelLinkReplaced(t *testing.T, l *lab, pod *space, del call) {
	must(t, pod.link.LinkDel(pod.get("net1")))
	a := netlink.NewLinkAttrs()
	a.Name = "net1"
	must(t, pod.link.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "other"}))
	l.mustRun(del)
	if !pod.has("net1") {
		t.Error("DEL took a stranger's interface")
	}
	must(t, pod.link.LinkDel(pod.get("net1")))
}

func testDelMasterGone(t *testing.T, l *lab, pod *space, del call) {
	must(t, l.host.link.LinkDel(l.host.get("rail0")))
	l.mustRun(del)
}

func testDelConfigChanged(t *testing.T, l *lab, pod *space, del call) {
	del.stdin = `{"cniVersion":"1.0.0","name":"rail0","type":"railyard","master":"nosuch","mode":"vepa","ipam":{"type":"whereabouts"}}`
	l.mustRun(del)
}

func testDelConfigWrong(t *testing.T, l *lab, pod *space, del call) {
	del.stdin = `{"cniVersion":"1.0.0","name":"rail0","type":"railyard","master":7,"mtu":"big","ipam":[],"prevResult":"x","runtimeConfig":3}`
	l.mustRun(del)
}

// testDelNoJournal: the state folder's journals are lost under a living pod.
func testDelNoJournal(t *testing.T, l *lab, pod *space, del call) {
	must(t, os.RemoveAll(filepath.Join(l.dir, "attachments")))
	l.mustRun(del)
	if pod.has("net1") {
		t.Error("the link is still there")
	}
}

func testDelUnknown(t *testing.T, l *lab, pod *space, del call) {
	before := l.snapshot(pod)
	for _, id := range []string{"never-seen", strings.Repeat("x", 200)} {
		for _, netns := range []string{"", pod.path, "/no/such", l.host.path} {
			for _, verb := range []string{"railyard-ipam", "nosuch", ""} {
				l.mustRun(call{verb: "DEL", id: id, ifName: "net1", netns: netns,
					stdin: `{"cniVersion":"0.3.1","name":"rail0","type":"railyard","ipam":{"type":"` + verb + `"}}`})
			}
		}
	}
	if diff := cmp.Diff(before, l.snapshot(pod)); diff != "" {
		t.Errorf("a DEL of nothing changed something:\n%s", diff)
	}
	l.mustRun(del)
}

// testDelAgentDown: the socket is there, nobody listens; the lease is released on the store.
func testDelAgentDown(t *testing.T, l *lab, pod *space, del call) {
	stop := l.serve()
	stop()
	l.mustRun(del)
}

// testDelAgentHangs: somebody holds the store and does not listen. The pod must not wait; the lease stays with
// its namespace on record, for the agent.
func testDelAgentHangs(t *testing.T, l *lab, pod *space, del call) {
	o, err := store.SystemOptions()
	must(t, err)
	s, err := store.Open(context.Background(), filepath.Join(l.dir, "ipam.db"), o)
	must(t, err)
	start := time.Now()
	a := l.mustRun(del)
	if took := time.Since(start); took > 8*time.Second || !strings.Contains(a.stderr, "could not be released") {
		t.Errorf("took %s, logged %q", took, a.stderr)
	}
	if pod.has("net1") || len(l.files()) != 0 {
		t.Error("the local part is to be undone")
	}
	leases, err := s.Leases()
	must(t, err)
	if len(leases) != 1 || leases[0].NetNS.Path != pod.path {
		t.Errorf("leases: %v", leases)
	}
	must(t, s.Close())
	l.mustRun(del)
}

func testDelSocket(t *testing.T, l *lab, pod *space, del call) {
	stop := l.serve()
	defer stop()
	l.mustRun(del)
}

func testDelOtherIPAM(t *testing.T, l *lab, pod *space, del call) {
	l.mustRun(del)
	l.useOther()
	add := call{verb: "ADD", id: "c1", ifName: "net1", netns: pod.path}
	del.stdin = strings.ReplaceAll(del.stdin, "railyard-ipam", "other")
	l.mustRun(add)
	l.touch("fail-DEL", "") // nobody else would release it: all but the lease is undone, and DEL tells
	l.mustFail(142, "made to fail", del)
	if pod.has("net1") || len(l.otherLeases()) != 1 {
		t.Error("the link is to go, the lease to stay")
	}
	l.remove("fail-DEL")
	del.env = map[string]string{"CNI_PATH": ""} // the journal knows where the plugin was
	l.mustRun(del)
	if len(l.otherLeases()) != 0 {
		t.Error("the lease is still there")
	}
	// After a reboot its leases are on disk and our journals are gone; its DEL is called with what there is.
	l.mustRun(add)
	must(t, os.RemoveAll(filepath.Join(l.dir, "attachments")))
	add.verb, add.netns = "DEL", ""
	l.mustRun(add)
	if len(l.otherLeases()) != 0 {
		t.Error("the lease without a journal is still there")
	}
	must(t, pod.link.LinkDel(pod.get("net1")))
}
