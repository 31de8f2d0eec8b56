// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/plugins/dispatch"
)

// outputWait bounds how long a plugin that has ended is listened to: a process that it left in the background may
// hold its output open for ever.
const outputWait = time.Second

// errNoPlugin: the other plugin is not in CNI_PATH.
var errNoPlugin = errors.New("plugin not found")

// foreign is a call of another plugin. It does what the reference library's invoke does, but its arguments come as
// arguments and not from the process's environment.
type foreign struct {
	name, verb, path                 string
	containerID, netns, ifName, args string
	stdin                            []byte
	environ                          []string
}

// find gives the plugin's file in the folders of CNI_PATH.
func find(name, cniPath string) (string, error) {
	for _, dir := range filepath.SplitList(cniPath) {
		if dir == "" || name != filepath.Base(name) {
			continue
		}
		file := filepath.Join(dir, name)
		if s, err := os.Stat(file); err == nil && s.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", fmt.Errorf("%w: no %s in CNI_PATH %q", errNoPlugin, name, cniPath)
}

// run executes the plugin and gives what it wrote to stdout. Its own errors are passed on with code and message.
func (c foreign) run(ctx context.Context) ([]byte, error) {
	file, err := find(c.name, c.path)
	if err != nil {
		return nil, dispatch.Errorf(dispatch.CodeDelegate, "ipam.type: %w", err)
	}
	// It ends with this process: an ADD that went on alone could take its lease after the DEL that follows. The kernel
	// looks at the thread that started it, which therefore has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout, stderr bytes.Buffer
	for range 5 {
		stdout.Reset()
		stderr.Reset()
		cmd := exec.CommandContext(ctx, file)
		cmd.Env = c.env()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.stdin), &stdout, &stderr
		cmd.WaitDelay = outputWait
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		// An installer that writes the file in place holds it open: the exec may succeed a moment later.
		if err = cmd.Run(); !errors.Is(err, unix.ETXTBSY) {
			break
		}
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return stdout.Bytes(), nil
	}
	var answer types.Error
	if json.Unmarshal(stdout.Bytes(), &answer) == nil && answer.Msg != "" && answer.Code != 0 {
		return nil, &answer
	}
	said := strings.TrimSpace(stdout.String() + " " + stderr.String())
	return nil, dispatch.Errorf(dispatch.CodeDelegate, "%s %s: %w: %.400s", c.name, c.verb, err, said)
}

func (c foreign) env() []string {
	var env []string
	for _, e := range c.environ {
		if !strings.HasPrefix(e, "CNI_") {
			env = append(env, e)
		}
	}
	return append(env, "CNI_COMMAND="+c.verb, "CNI_CONTAINERID="+c.containerID, "CNI_NETNS="+c.netns,
		"CNI_IFNAME="+c.ifName, "CNI_ARGS="+c.args, "CNI_PATH="+c.path)
}

// foreignCall is a call of the config's own IPAM plugin with this call's arguments.
func (p *plugin) foreignCall(a dispatch.Args, name string) foreign {
	return foreign{
		name: name, verb: a.Verb, path: a.Path, containerID: a.ContainerID, netns: a.NetNS, ifName: a.IfName,
		args: a.Extra.Raw, stdin: a.Stdin, environ: p.Environ,
	}
}
