// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package dispatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/dispatch"
)

func run(p dispatch.Plugin, env map[string]string, stdin string) (rc int, stdout, stderr string) {
	var out, errs strings.Builder
	rc = dispatch.Run(context.Background(), p, func(k string) string { return env[k] }, strings.NewReader(stdin), &out, &errs)
	return rc, out.String(), errs.String()
}

// failing is a plugin whose every verb ends with err.
func failing(err error) dispatch.Plugin {
	f := func(context.Context, dispatch.Args) error { return err }
	return dispatch.Plugin{
		Add: func(context.Context, dispatch.Args) (*current.Result, error) { return nil, err },
		Del: f, Check: f, GC: f, Status: f,
	}
}

const config = `{"cniVersion":"1.1.0","name":"n","type":"t"}`

func TestCodes(t *testing.T) {
	cases := map[string]struct {
		err  error
		want uint
	}{
		"own":          {dispatch.Errorf(dispatch.CodeLink, "x"), 105},
		"own, wrapped": {fmt.Errorf("y: %w", dispatch.Errorf(dispatch.CodeLink, "x")), 105},
		"outer first":  {dispatch.Errorf(dispatch.CodeNotReady, "%w", dispatch.Errorf(dispatch.CodeLink, "x")), 50},
		"foreign":      {types.NewError(142, "x", "y"), 142},
		"field":        {&conf.FieldError{Field: "a", Detail: "b"}, 7},
		"syntax":       {fmt.Errorf("%w: x", conf.ErrSyntax), 6},
		"invalid":      {&ipam.FieldError{Field: "a", Detail: "b"}, 7},
		"pool unknown": {fmt.Errorf("x: %w", ipam.ErrPoolUnknown), 7},
		"pool closed":  {ipam.ErrPoolClosed, 11},
		"pool full":    {ipam.ErrPoolFull, 11},
		"unavailable":  {ipam.ErrUnavailable, 11},
		"taken":        {ipam.ErrTaken, 101},
		"not found":    {ipam.ErrNotFound, 3},
		"unforeseen":   {errors.New("x"), 100},
		"status full":  {dispatch.StatusError(ipam.ErrPoolFull), 51},
		"status":       {dispatch.StatusError(ipam.ErrPoolClosed), 50},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			rc, stdout, _ := run(failing(c.err), map[string]string{"CNI_COMMAND": "STATUS"}, config)
			var e types.Error
			if err := json.Unmarshal([]byte(stdout), &e); err != nil || rc != 1 || e.Code != c.want || e.Msg == "" {
				t.Errorf("rc %d, %s, want code %d", rc, stdout, c.want)
			}
			if name == "foreign" && (e.Msg != "x" || e.Details != "y") {
				t.Errorf("another plugin's error is to pass unchanged: %s", stdout)
			}
		})
	}
	if dispatch.StatusError(nil) != nil {
		t.Error("ready is not an error")
	}
}

func TestPanic(t *testing.T) {
	p := failing(nil)
	p.Status = func(context.Context, dispatch.Args) error { panic("oh") }
	rc, stdout, stderr := run(p, map[string]string{"CNI_COMMAND": "STATUS"}, config)
	if rc != 1 || !strings.Contains(stdout, `"code": 100`) || !strings.Contains(stderr, "run_test.go") {
		t.Errorf("%d %s %s", rc, stdout, stderr)
	}
}

func TestArgs(t *testing.T) {
	var got dispatch.Args
	p := failing(nil)
	p.Del = func(_ context.Context, a dispatch.Args) error { got = a; return nil }
	rc, stdout, _ := run(p, map[string]string{
		"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "i", "CNI_NETNS": "/gone", "CNI_PATH": "/a:/b",
		"CNI_ARGS": "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u;;X=a=b",
	}, config)
	if rc != 0 || stdout != "" || got.Extra.Pod() != (ipam.Pod{Namespace: "ns", Name: "p", UID: "u"}) || got.Extra.Get("X") != "a=b" ||
		got.NetNS != "/gone" || got.Path != "/a:/b" || got.Name != "n" || got.CNIVersion != "1.1.0" || string(got.Stdin) != config {
		t.Errorf("%d %q %+v", rc, stdout, got)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, errors.New("broken") }
func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestBrokenPipes(t *testing.T) {
	env := func(k string) string { return map[string]string{"CNI_COMMAND": "STATUS"}[k] }
	var out strings.Builder
	if rc := dispatch.Run(context.Background(), failing(nil), env, broken{}, &out, io.Discard); rc != 1 || !strings.Contains(out.String(), `"code": 5`) {
		t.Errorf("%d %s", rc, out.String())
	}
	if rc := dispatch.Run(context.Background(), failing(nil), env, strings.NewReader(config), broken{}, io.Discard); rc != 1 {
		t.Errorf("rc %d", rc)
	}
}

// The main thread never ends, so nothing that enters a namespace may run on it: others would see that as the process's.
func init() { runtime.LockOSThread() }

// TestResult: ADD's result comes in the shape of each version. It needs root, for a namespace.
func TestResult(t *testing.T) {
	f := make(chan *os.File)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		f <- ns
	}()
	ns := <-f
	defer ns.Close()
	p := failing(nil)
	p.Add = func(_ context.Context, a dispatch.Args) (*current.Result, error) {
		if a.NS.Ino == 0 {
			t.Error("the namespace is not identified")
		}
		_, n, err := net.ParseCIDR("10.0.0.0/8")
		return &current.Result{CNIVersion: "1.1.0", IPs: []*current.IPConfig{{Address: *n}}}, err
	}
	for _, v := range dispatch.Versions() {
		rc, stdout, _ := run(p, map[string]string{
			"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "i", "CNI_NETNS": fmt.Sprintf("/proc/self/fd/%d", ns.Fd()),
		}, strings.Replace(config, "1.1.0", v, 1))
		r, err := dispatch.DecodeResult([]byte(stdout), "")
		if rc != 0 || err != nil || !strings.Contains(stdout, `"cniVersion": "`+v+`"`) || r.IPs[0].Address.String() != "10.0.0.0/8" {
			t.Errorf("%s: %d %s %v", v, rc, stdout, err)
		}
	}
	for _, text := range []string{`{"cniVersion":"7.0.0"}`, `7`} {
		if _, err := dispatch.DecodeResult([]byte(text), "1.0.0"); err == nil {
			t.Errorf("%s was taken for a result", text)
		}
	}
	for _, v := range append(dispatch.Versions(), "0.2.0") {
		for _, text := range []string{`"interfaces":[null]`, `"ips":[null]`, `"ips":[{}]`, `"routes":[null]`, `"routes":[{}]`, `"ip4":{}`} {
			r, err := dispatch.DecodeResult([]byte(`{"cniVersion":"`+v+`",`+text+`}`), "")
			if err == nil && len(r.Interfaces)+len(r.IPs)+len(r.Routes) > 0 {
				t.Errorf("%s %s was taken for a result: %+v", v, text, r)
			}
		}
	}
}
