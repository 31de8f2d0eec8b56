// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// CheckMaster refuses what is neither a link's name or alternative name nor a PCI address. Empty is fine.
func CheckMaster(field, master string) error {
	const altIfNameSize = 128 // with the terminating zero, ALTIFNAMSIZ in include/uapi/linux/if.h
	switch {
	case master == "" || IsPCI(master):
		return nil
	case len(master) >= altIfNameSize:
		return fieldErrorf(field, "has %d bytes: a link's name has up to 15, an alternative name up to %d", len(master), altIfNameSize-1)
	case master == "." || master == ".." || strings.ContainsFunc(master, func(r rune) bool {
		return r <= ' ' || r == '/' || r == ':' || r == 0x7f || r == '\uFFFD'
	}):
		return fieldErrorf(field, "%.130q names no link: write a link's name, an alternative name or a PCI address like 0000:3b:00.0", master)
	}
	return nil
}

// IsPCI says that s is a PCI address as sysfs writes it: domain:bus:device.function, in lower-case hex.
func IsPCI(s string) bool {
	domain, rest, _ := strings.Cut(s, ":")
	if len(domain) < 4 || len(domain) > 8 || !hex(domain) || len(rest) != len("3b:00.0") {
		return false
	}
	return hex(rest[0:2]) && rest[2] == ':' && hex(rest[3:5]) && rest[5] == '.' && rest[6] >= '0' && rest[6] <= '7'
}

func hex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

// mac is the address asked for, the most particular wish first.
func (c Config) mac() (net.HardwareAddr, error) {
	field, text := "mac", c.MAC
	if c.Args != nil && c.Args.CNI.MAC != "" {
		field, text = "args.cni.mac", c.Args.CNI.MAC
	}
	if c.RuntimeConfig != nil && c.RuntimeConfig.MAC != "" {
		field, text = "runtimeConfig.mac", c.RuntimeConfig.MAC
	}
	if text == "" {
		return nil, nil
	}
	return ParseMAC(field, text)
}

// ParseMAC reads the address of one Ethernet interface.
func ParseMAC(field, text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	switch {
	case err != nil || len(mac) != 6:
		return nil, fieldErrorf(field, "%.80q is no Ethernet address: write one like 02:00:0a:14:00:07", text)
	case mac[0]&1 != 0:
		return nil, fieldErrorf(field, "%s is a group's address: clear the lowest bit of its first byte", mac)
	case !slices.ContainsFunc(mac, func(b byte) bool { return b != 0 }):
		return nil, fieldErrorf(field, "is zero: write an address like 02:00:0a:14:00:07")
	}
	return mac, nil
}

// guid is the GUID that the pod asks for, or nil.
func (c Config) guid(kind string) (net.HardwareAddr, error) {
	const field = "runtimeConfig." + CapabilityInfinibandGUID
	if c.RuntimeConfig == nil || c.RuntimeConfig.InfinibandGUID == "" {
		return nil, nil
	}
	text := c.RuntimeConfig.InfinibandGUID
	guid, err := net.ParseMAC(text)
	all := func(b byte) bool {
		return err == nil && !slices.ContainsFunc(guid, func(x byte) bool { return x != b })
	}
	switch {
	case err != nil || len(guid) != 8:
		return nil, fieldErrorf(field, "%.80q is no GUID: write one like 02:11:22:33:44:55:66:77", text)
	case all(0) || all(0xff):
		return nil, fieldErrorf(field, "%s is no port's: write one like 02:11:22:33:44:55:66:77", guid)
	case !Moves(kind):
		return nil, fieldErrorf(field, "means nothing to a %s, which has its master's: leave the pod's infiniband-guid out", kind)
	case len(c.Rails) > 0:
		return nil, fieldErrorf(field, "is for one device, and the network has several rails: leave the pod's infiniband-guid out")
	}
	return guid, nil
}

// static are the addresses asked for by name: those of runtimeConfig, or else those of the pod's cni-args.
func (c Config) static() ([]netip.Addr, error) {
	field, list := "runtimeConfig.ips", []string(nil)
	if c.RuntimeConfig != nil {
		list = c.RuntimeConfig.IPs
	}
	if len(list) == 0 && c.Args != nil {
		field, list = "args.cni.ips", c.Args.CNI.IPs
	}
	return ParseIPs(field, list)
}

// ParseIPs reads addresses with or without a prefix length, at most one a family. The length is the pool's to say
// and is not looked at.
func ParseIPs(field string, list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	var errs []error
	for i, text := range list {
		name := fmt.Sprintf("%s[%d]", field, i)
		a, err := netip.ParseAddr(text)
		if err != nil {
			var p netip.Prefix
			p, err = netip.ParsePrefix(text)
			a = p.Addr()
		}
		switch {
		case err != nil:
			errs = append(errs, fieldErrorf(name, "%.80q is no address: write one like 10.20.0.7 or fd00:20::7", text))
		case a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
			errs = append(errs, fieldErrorf(name, "%s is no address for a host: write one of the pool's reserved addresses", a))
		case slices.ContainsFunc(out, func(b netip.Addr) bool { return b.Is4() == a.Is4() }):
			errs = append(errs, fieldErrorf(name, "%s is the second address of its family: ask for at most one of each", a))
		default:
			out = append(out, a)
		}
	}
	return out, errors.Join(errs...)
}

func parseSysctls(m map[string]string) ([]Sysctl, error) {
	var out []Sysctl
	var errs []error
	for key, value := range m {
		field := fmt.Sprintf("sysctl.%.80s", key)
		path := key
		if !strings.Contains(key, "/") { // as sysctl(8): with a slash anywhere, dots are not separators
			path = strings.ReplaceAll(key, ".", "/")
		}
		parts := strings.Split(path, "/")
		bad := func(p string) bool { return p == "" || p == "." || p == ".." || strings.ContainsAny(p, "\x00") }
		switch {
		case parts[0] != "net" || len(parts) < 3 || slices.ContainsFunc(parts, bad):
			errs = append(errs, fieldErrorf(field, "is not a setting of a network namespace: write one like net.ipv4.conf.%s.arp_ignore", IfNamePlaceholder))
		case value == "" || strings.ContainsAny(value, "\x00\n"):
			errs = append(errs, fieldErrorf(field, "has the value %.80q: write one line of text", value))
		default:
			out = append(out, Sysctl{Key: path, Value: value})
		}
	}
	slices.SortFunc(out, func(a, b Sysctl) int { return strings.Compare(a.Key, b.Key) })
	return out, errors.Join(errs...)
}

func checkName(name string) error {
	switch {
	case name == "":
		return fieldErrorf("name", "is empty: name the network")
	case len(name) > MaxName:
		return fieldErrorf("name", "has %d characters: use at most %d", len(name), MaxName)
	case !IsName(name):
		return fieldErrorf("name", "%.80q is no name: use letters, digits, dots, dashes and underscores, and begin with a letter or digit", name)
	}
	return nil
}

func checkPath(field, path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return fieldErrorf(field, "%.80q is no absolute path: begin it with a slash", path)
	}
	return nil
}

// The specification's rules for names, which the reference library has too: in regular expressions, whose making takes a plugin
// longer than a request to the kernel.

// IsName says that s is a name that the CNI specification allows for a network or a container: letters, digits, dots, dashes and
// underscores, the first of them a letter or digit.
func IsName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '-' && c != '_') {
			return false
		}
	}
	return s != ""
}

// IsInterface says that the kernel takes s for the name of a link (dev_valid_name in net/core/dev.c).
func IsInterface(s string) bool {
	const most = 15
	return s != "" && len(s) <= most && s != "." && s != ".." && !strings.ContainsFunc(s, func(r rune) bool {
		return r == '/' || r == ':' || unicode.IsSpace(r)
	})
}
