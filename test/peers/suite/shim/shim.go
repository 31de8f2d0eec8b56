// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package shim stands where the peers' plugins stand in their own test suites, and executes railyard for every call.
//
// The suites call the verbs as functions, from a thread that they have put into the host's namespace; a child inherits
// it, so railyard runs there as a runtime would run it. What the child prints goes to os.Stdout, which the suites have
// swapped for a pipe, and its error object comes back as the *types.Error that it is. Errors and logs go to the report, too.
//
// Of the config, only the keys that name the plugin are changed, and the state folder is added: see [Plugin.config].
package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/onsi/ginkgo/v2"
	"golang.org/x/sys/unix"
)

// BinaryEnv is the environment variable that names railyard's binary. It must be one for tests, which looks at
// RAILYARD_SYS instead of /sys.
const BinaryEnv = "RAILYARD_PEERS_BINARY"

// stateDir is one node's for all cases, as on a real one: what a case leaves behind must not harm the next.
const stateDir = "/run/railyard"

// Plugin is railyard in the place of one of the peers' plugins.
type Plugin struct {
	// Kind is railyard's for what that plugin does.
	Kind string
	// Wording has the messages that the suite compares word by word.
	Wording []Wording
}

// Wording is an error that the suite knows by its text alone. The specification has no texts: an error of this code, in
// answer to this verb, is shown to the suite in the peer's words.
type Wording struct {
	Verb string
	Code uint
	// Ours must be in railyard's message; Theirs replaces it.
	Ours, Theirs string
}

// NoCheck is the reference library's refusal of a CHECK before 0.4.0.
func NoCheck() Wording {
	return Wording{Verb: "CHECK", Code: types.ErrIncompatibleCNIVersion, Ours: "CHECK needs 0.4.0", Theirs: "config version does not allow CHECK"}
}

// Call executes railyard in the calling thread's namespace. The folder sys stands for /sys; empty: one with nothing in it.
func (p Plugin) Call(verb string, args *skel.CmdArgs, sys string) error {
	conf, err := p.config(args.StdinData)
	if err != nil {
		return err
	}
	if sys == "" {
		sys = emptySys
	}
	runtime.LockOSThread() // the caller holds it too; a child is started from this very thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(os.Getenv(BinaryEnv))
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + args.ContainerID, "CNI_NETNS=" + args.Netns,
		"CNI_IFNAME=" + args.IfName, "CNI_ARGS=" + args.Args, "CNI_PATH=" + os.Getenv("PATH"),
		"PATH=" + os.Getenv("PATH"), "RAILYARD_SYS=" + sys,
	}
	var stdout bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &stdout, ginkgo.GinkgoWriter
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		_, err = os.Stdout.Write(stdout.Bytes())
		return err
	case !errors.As(err, &exit):
		return fmt.Errorf("execute railyard: %w", err)
	}
	var answer types.Error
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil || answer.Code == 0 {
		return fmt.Errorf("railyard %s: %w, and no error object on stdout: %q", verb, exit, stdout.String())
	}
	fmt.Fprintf(ginkgo.GinkgoWriter, "railyard %s: code %d: %s\n", verb, answer.Code, answer.Msg)
	for _, w := range p.Wording {
		if w.Verb == verb && w.Code == answer.Code && bytes.Contains([]byte(answer.Msg), []byte(w.Ours)) {
			answer.Msg = w.Theirs
		}
	}
	return &answer
}

// config gives the peer's config as railyard reads it. The keys of a kind are spelled as the peer's, on purpose.
func (p Plugin) config(theirs []byte) ([]byte, error) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(theirs, &c); err != nil {
		return nil, err
	}
	for key, value := range map[string]string{"type": "railyard", "kind": p.Kind, "stateDir": stateDir} {
		b, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		c[key] = b
	}
	return json.Marshal(c)
}

const emptySys = stateDir + ".sys"

// Main runs the suite. It must be in a mount namespace of its own: the folder where the suites make namespaces, and
// railyard's state, are on a /run that nobody else sees.
func Main(m *testing.M) int {
	run, err := filepath.EvalSymlinks("/var/run") // as testutils calls it
	if err == nil {
		err = unix.Mount("tmpfs", run, "tmpfs", 0, "mode=755")
	}
	if err == nil {
		err = os.MkdirAll(emptySys, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "a /run of its own:", err)
		return 1
	}
	return m.Run()
}
