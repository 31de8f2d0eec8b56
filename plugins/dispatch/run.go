// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/railyard-net/railyard/ipam"
)

// Versions are the versions of the specification that the plugins speak.
func Versions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// Plugin is one plugin's functions, one a verb. All must be set.
type Plugin struct {
	// Add's result is printed at the version that the config asks for.
	Add    func(context.Context, Args) (*current.Result, error)
	Del    func(context.Context, Args) error
	Check  func(context.Context, Args) error
	GC     func(context.Context, Args) error
	Status func(context.Context, Args) error
}

// Args is one call, checked: the variables that the verb needs are there and well-formed, Stdin is a JSON object with
// a good name, a type and a supported cniVersion, and for ADD and CHECK NetNS is a network namespace, not ours.
type Args struct {
	Verb string
	// ContainerID and IfName are empty for GC and STATUS.
	ContainerID, IfName string
	// NetNS is CNI_NETNS; for DEL it may be empty or name anything.
	NetNS string
	// NS is the namespace behind NetNS, for ADD and CHECK only.
	NS ipam.NetNS
	// Extra are the pairs of CNI_ARGS, Raw the same as it came.
	Extra Extra
	// Path is CNI_PATH, where other plugins are; it may be empty.
	Path string
	// Stdin is the config, CNIVersion and Name what it says.
	Stdin            []byte
	CNIVersion, Name string
}

// Run serves one call and gives the exit status: 0, or 1 with an error object on stdout. What the plugin logs, it
// logs to stderr by itself; of Run's own only the stack of a panic goes there.
func Run(ctx context.Context, p Plugin, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	out, err := serve(ctx, p, getenv, stdin, stderr)
	if err != nil {
		out, err = json.MarshalIndent(answer(err), "", "    ")
		if err != nil {
			panic(err) // a number and strings always marshal
		}
		stdout.Write(append(out, '\n')) //nolint:errcheck // the exit status says that it failed
		return 1
	}
	if _, err := stdout.Write(out); err != nil {
		fmt.Fprintf(stderr, "write the result to stdout: %v\n", err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, p Plugin, getenv func(string) string, stdin io.Reader, stderr io.Writer) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(stderr, "panic: %v\n%s", r, debug.Stack())
			out, err = nil, Errorf(CodeBug, "a fault in this program: %v", r)
		}
	}()
	if getenv("CNI_COMMAND") == "VERSION" {
		var b bytes.Buffer
		err := version.PluginSupports(Versions()...).Encode(&b)
		return b.Bytes(), err
	}
	a, err := parse(getenv, stdin)
	if err != nil {
		return nil, err
	}
	switch a.Verb {
	case "ADD":
		result, err := p.Add(ctx, a)
		if err != nil {
			return nil, err
		}
		return Encode(result, a.CNIVersion)
	case "DEL":
		return nil, p.Del(ctx, a)
	case "CHECK":
		return nil, p.Check(ctx, a)
	case "GC":
		return nil, p.GC(ctx, a)
	default: // parse lets no other verb pass
		return nil, p.Status(ctx, a)
	}
}

func supported(v string) bool { return slices.Contains(Versions(), v) }

// least is the version of the specification that first had the verb.
func least(verb string) string {
	switch verb {
	case "CHECK":
		return "0.4.0"
	case "GC", "STATUS":
		return "1.1.0"
	default:
		return Versions()[0]
	}
}

func checkVersion(verb, v string) error {
	if !supported(v) {
		if v == "" {
			v = "missing"
		}
		return Errorf(CodeVersion, "cniVersion: is %.40s: write one of %v", v, Versions())
	}
	if slices.Index(Versions(), v) < slices.Index(Versions(), least(verb)) {
		return Errorf(CodeVersion, "cniVersion: is %s: %s needs %s or newer", v, verb, least(verb))
	}
	return nil
}
