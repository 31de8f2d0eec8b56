//go:build vm

// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package rails

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// end is one side of a connection: a process in a pod that uses a device with one GID.
type end struct {
	pod    *space
	device string
	gid    int
}

// program is one that sends over a reliable connection between two ends.
type program struct {
	line string // with %s for the device and %d for the index of the GID
	// proof is what the client says when all that it sent was answered.
	proof *regexp.Regexp
}

// programs are those whose sides find each other by TCP, on one port.
func programs() []program {
	return []program{
		{"ibv_rc_pingpong -d %s -g %d -n 10", regexp.MustCompile(`10 iters in`)},
		{"ib_write_bw -F -d %s -x %d -n 20 -s 4096", regexp.MustCompile(`(?m)^ *4096 +20 +\d`)},
	}
}

// speak sends by each program between two ends, whose pods reach each other by IP.
func speak(t testing.TB, server, client end, serverIP string) {
	t.Helper()
	for _, p := range programs() {
		s, said := server.command(t, p)
		must(t, server.pod.do(s.Start))
		t.Cleanup(func() {
			_ = s.Process.Kill()
			_ = s.Wait()
		})
		eventually(t, func() error { return listens(s.Process.Pid, 18515) })
		c, heard := client.command(t, p, serverIP)
		if err := client.pod.do(c.Run); err != nil {
			t.Fatalf("the client: %v\n%s\nthe server:\n%s", err, heard, said)
		}
		if err := s.Wait(); err != nil {
			t.Fatalf("the server: %v\n%s", err, said)
		}
		if !p.proof.MatchString(heard.String()) {
			t.Errorf("the client does not say that all was answered:\n%s", heard)
		}
	}
}

// command is the program with a /sys of the pod's own, as a container has it: in exclusive mode it looks for the device there.
func (e end) command(t testing.TB, p program, args ...string) (*exec.Cmd, *bytes.Buffer) {
	return inContainer(t, fmt.Sprintf(p.line, e.device, e.gid)+" "+strings.Join(args, " "))
}

func inContainer(t testing.TB, line string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "mount -t sysfs sysfs /sys && exec timeout 40 "+line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// rping has the two ends find each other by RDMA's own connection manager, to which an address is enough. Nothing tells when
// the server is ready, so the client tries again.
func rping(t testing.TB, server, client end, serverIP string) {
	t.Helper()
	s, said := inContainer(t, "rping -s -C 5 -a "+serverIP)
	must(t, server.pod.do(s.Start))
	t.Cleanup(func() {
		_ = s.Process.Kill()
		_ = s.Wait()
	})
	eventually(t, func() error {
		c, heard := inContainer(t, "rping -c -v -C 5 -a "+serverIP)
		if err := client.pod.do(c.Run); err != nil {
			return fmt.Errorf("the client: %w\n%s\nthe server:\n%s", err, heard, said)
		}
		if n := strings.Count(heard.String(), "ping data:"); n != 5 {
			t.Fatalf("the client had %d of 5 answers:\n%s", n, heard)
		}
		return nil
	})
}

// listens says that someone in the process's namespace listens on a TCP port.
func listens(pid, port int) error {
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return nil
			}
		}
	}
	return errors.New("the server does not listen")
}

// Two pods on one rail have a macvlan each, and a device on it. (That the device on their parent carries what they send with the GIDs that it
// has of their addresses is more than rxe can.)
func TestPingPongShared(t *testing.T) {
	needShared(t)
	needMovableRXE(t) // with it rxe learnt to receive in namespaces
	host, fabric := machine(t), newSpace(t)
	host.cable("r0", fabric, "port0")
	var ends []end
	for i := range 2 {
		pod, addr, device := newSpace(t), fmt.Sprintf("10.9.0.1%d", i+1), fmt.Sprintf("rxe%d", i)
		host.macvlan("r0", "net1", pod)
		pod.address("net1", addr+"/24")
		pod.rxe(device, "net1")
		ends = append(ends, end{pod, device, waitGID(t, device, addr).index})
	}
	speak(t, ends[0], ends[1], "10.9.0.11")
}

// Two pods have a link and an RDMA device each. The device has to be made after its link has moved, for it would not survive that.
func TestPingPongExclusive(t *testing.T) {
	needExclusive(t)
	needMovableRXE(t)
	host, a, b := machine(t), newSpace(t), newSpace(t)
	a.cable("net1", b, "net1")
	var ends []end
	for i, pod := range []*space{a, b} {
		addr, device := fmt.Sprintf("10.9.0.1%d", i+1), fmt.Sprintf("rxe%d", i)
		pod.address("net1", addr+"/24")
		pod.rxe(device, "net1")
		index := waitGID(t, device, addr).index
		must(t, host.moveRDMA(device, pod))
		ends = append(ends, end{pod, device, index})
	}
	speak(t, ends[0], ends[1], "10.9.0.11")
}
