// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package dispatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/ipam"
	"github.com/railyard-net/railyard/netdef/conf"
)

// maxStdin bounds the config: much more than any runtime sends.
const maxStdin = 16 << 20

// Extra is CNI_ARGS.
type Extra struct {
	Raw   string
	pairs map[string]string
}

// Get is the value under that key, or "".
func (e Extra) Get(key string) string { return e.pairs[key] }

// Pod is the pod that a Kubernetes runtime says the call is for.
func (e Extra) Pod() ipam.Pod {
	return ipam.Pod{Namespace: e.pairs["K8S_POD_NAMESPACE"], Name: e.pairs["K8S_POD_NAME"], UID: e.pairs["K8S_POD_UID"]}
}

func parse(getenv func(string) string, stdin io.Reader) (Args, error) {
	a := Args{
		Verb: getenv("CNI_COMMAND"), ContainerID: getenv("CNI_CONTAINERID"), IfName: getenv("CNI_IFNAME"),
		NetNS: getenv("CNI_NETNS"), Path: getenv("CNI_PATH"),
	}
	if err := a.checkEnvironment(); err != nil {
		return Args{}, err
	}
	var err error
	if a.Extra, err = parseExtra(getenv("CNI_ARGS")); err != nil {
		return Args{}, err
	}
	if a.Stdin, err = io.ReadAll(io.LimitReader(stdin, maxStdin+1)); err != nil {
		return Args{}, Errorf(CodeIO, "read the config from stdin: %w", err)
	}
	if err := a.checkStdin(); err != nil {
		return Args{}, err
	}
	if a.Verb == "ADD" || a.Verb == "CHECK" {
		if a.NS, err = statNetNS(a.NetNS); err != nil {
			return Args{}, err
		}
	}
	return a, nil
}

func (a *Args) checkEnvironment() error {
	var need map[string]string
	switch a.Verb {
	case "ADD", "CHECK":
		need = map[string]string{"CNI_CONTAINERID": a.ContainerID, "CNI_IFNAME": a.IfName, "CNI_NETNS": a.NetNS}
	case "DEL":
		need = map[string]string{"CNI_CONTAINERID": a.ContainerID, "CNI_IFNAME": a.IfName}
	case "GC", "STATUS":
		a.ContainerID, a.IfName, a.NetNS = "", "", ""
		return nil
	case "":
		return Errorf(CodeEnvironment, "CNI_COMMAND is missing: a container runtime sets it")
	default:
		return Errorf(CodeEnvironment, "CNI_COMMAND is %.40q: use ADD, DEL, CHECK, GC, STATUS or VERSION", a.Verb)
	}
	var missing []string
	for name, value := range need {
		if value == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return Errorf(CodeEnvironment, "%s needs %s", a.Verb, strings.Join(missing, ", "))
	}
	switch {
	case !conf.IsName(a.ContainerID):
		return Errorf(CodeEnvironment, "CNI_CONTAINERID is %.80q: use letters, digits, dots, dashes and underscores, and begin with a letter or digit", a.ContainerID)
	case len(a.ContainerID) > ipam.MaxContainerID:
		return Errorf(CodeEnvironment, "CNI_CONTAINERID has %d characters: use at most %d", len(a.ContainerID), ipam.MaxContainerID)
	case strings.ContainsRune(a.IfName, '%') || a.IfName == "all" || a.IfName == "default":
		return Errorf(CodeEnvironment, "CNI_IFNAME is %q: the kernel gives that name to no interface, take one like net1", a.IfName)
	case !conf.IsInterface(a.IfName) || !utf8.ValidString(a.IfName) || strings.ContainsFunc(a.IfName, unicode.IsControl):
		return Errorf(CodeEnvironment, "CNI_IFNAME is %.80q: use up to 15 bytes without slash, colon, space or control characters", a.IfName)
	case strings.ContainsRune(a.NetNS, 0):
		return Errorf(CodeEnvironment, "CNI_NETNS is %.80q: give a path", a.NetNS)
	}
	return nil
}

// parseExtra reads KEY=VALUE pairs between semicolons. Empty pairs are tolerated.
func parseExtra(raw string) (Extra, error) {
	e := Extra{Raw: raw, pairs: map[string]string{}}
	for pair := range strings.SplitSeq(raw, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return Extra{}, Errorf(CodeEnvironment, "CNI_ARGS holds %.80q: write KEY=VALUE pairs with semicolons between", pair)
		}
		e.pairs[key] = value
	}
	return e, nil
}

func (a *Args) checkStdin() error {
	if len(a.Stdin) > maxStdin {
		return Errorf(CodeDecode, "the config has more than %d bytes", maxStdin)
	}
	var c struct {
		Name       string `json:"name"`
		Type       string `json:"type"`
		CNIVersion string `json:"cniVersion"`
	}
	err := json.Unmarshal(a.Stdin, &c)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return Errorf(CodeConfig, "%s: is a %s: write a string", wrong.Field, wrong.Value)
	case err != nil || !bytes.HasPrefix(bytes.TrimLeft(a.Stdin, " \t\r\n"), []byte("{")):
		return Errorf(CodeDecode, "the config on stdin is no JSON object: %v", err)
	}
	if err := checkVersion(a.Verb, c.CNIVersion); err != nil {
		return err
	}
	a.CNIVersion, a.Name = c.CNIVersion, c.Name
	switch {
	case c.Name == "":
		return Errorf(CodeConfig, "name: is empty: name the network")
	case !conf.IsName(c.Name):
		return Errorf(CodeConfig, "name: %.80q is no name: use letters, digits, dots, dashes and underscores, and begin with a letter or digit", c.Name)
	case c.Type == "":
		return Errorf(CodeConfig, "type: is empty: name the plugin")
	}
	return nil
}

// statNetNS identifies the namespace at path, which must be one of network and not the one that we run in.
func statNetNS(path string) (ipam.NetNS, error) {
	ns, err := ipam.StatNetNS(path)
	if err != nil {
		return ns, Errorf(CodeNetNS, "CNI_NETNS: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return ns, Errorf(CodeNetNS, "CNI_NETNS: %w", err)
	}
	defer f.Close()
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return ns, Errorf(CodeNetNS, "CNI_NETNS: %s is not a network namespace", path)
	}
	var own unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err == nil && own.Dev == ns.Dev && own.Ino == ns.Ino {
		return ns, Errorf(CodeNetNS, "CNI_NETNS: %s is the plugin's own namespace, the host's: give the pod's", path)
	}
	return ns, nil
}
