// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/railyard-net/railyard/netdef/conf"
	"github.com/railyard-net/railyard/plugins/cni/journal"
	"github.com/railyard-net/railyard/plugins/dispatch"
	"github.com/railyard-net/railyard/rdma"
)

// podInfo is what a pod's programs need to know of an attachment, and cannot find out by themselves. Its format is in
// docs/user/networks.md: fields may be added, and the version grows when one changes its meaning or goes.
type podInfo struct {
	Version     int       `json:"version"`
	Network     string    `json:"network"`
	ContainerID string    `json:"containerID"`
	Interfaces  []podRail `json:"interfaces"`
}

const podInfoVersion = 1

// maxPodFile is much more than any attachment has to say.
const maxPodFile = 1 << 20

type podRail struct {
	Interface string   `json:"interface"`
	MAC       string   `json:"mac"`
	MTU       int      `json:"mtu"`
	Addresses []string `json:"addresses,omitempty"` // with their prefix lengths
	// Parent is the link of the host that the interface stands on, or was.
	Parent string `json:"parent,omitempty"`
	PCI    string `json:"pciAddress,omitempty"`
	// NUMA is nil where the machine does not say.
	NUMA *int      `json:"numaNode,omitempty"`
	RDMA []podRDMA `json:"rdma,omitempty"`
}

type podRDMA struct {
	Device string `json:"device"`
	// IWARP: a program connects by rdma_cm and no other way.
	IWARP bool      `json:"iWARP,omitempty"`
	Ports []podPort `json:"ports,omitempty"`
	// GIDs of the interface's addresses; none in exclusive mode, where the pod has the table to itself, and none of iWARP.
	GIDs []journal.GID `json:"gids,omitempty"`
}

type podPort struct {
	Number    int    `json:"number"`
	LinkLayer string `json:"linkLayer"`
	ToS       *uint8 `json:"roceToS,omitempty"`
}

// planPodFile decides where the pod's programs find the file: below a folder of the pod's UID, since that is what a volume can name. Nil:
// the runtime does not say which pod it is, or the attachment has no hardware that there is anything to say of.
func planPodFile(t *attachment) *journal.File {
	uid := t.args.Extra.Pod().UID
	if !plainUID(uid) {
		return nil
	}
	for _, r := range t.rails {
		if r.master.pci != "" || len(r.rdma.devices()) > 0 {
			return &journal.File{Path: filepath.Join(t.spec.StateDir, "pods", uid, t.args.IfName+".json"), Container: t.args.ContainerID}
		}
	}
	return nil
}

// plainUID says that a UID is a file's name: Kubernetes' are.
func plainUID(uid string) bool {
	return uid != "" && len(uid) <= 128 && !strings.ContainsFunc(uid, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-'
	})
}

func (p *plugin) podInfoOf(t *attachment) podInfo {
	out := podInfo{Version: podInfoVersion, Network: t.args.Name, ContainerID: t.args.ContainerID}
	for _, r := range t.rails {
		one := podRail{Interface: r.name(), MAC: r.link.MAC, MTU: r.link.MTU, PCI: r.master.pci}
		if r.master.link != nil && r.spec.Kind != conf.KindChained {
			one.Parent = r.master.name()
		}
		for _, c := range r.got.ips {
			one.Addresses = append(one.Addresses, prefix(c).String())
		}
		if node, err := rdma.NUMANode(p.Sys, rdma.BusAddr(r.master.bus)); err == nil && node >= 0 {
			one.NUMA = &node
		}
		for _, d := range r.rdma.devices() {
			one.RDMA = append(one.RDMA, r.podRDMA(d))
		}
		out.Interfaces = append(out.Interfaces, one)
	}
	return out
}

func (r *rail) podRDMA(d rdma.Device) podRDMA {
	out := podRDMA{Device: d.Name, IWARP: d.IWARP()}
	for _, port := range d.Ports {
		one := podPort{Number: port.Number, LinkLayer: string(port.LinkLayer)}
		if r.wantToS != nil && d.RoCE(port) {
			one.ToS = r.wantToS
		}
		out.Ports = append(out.Ports, one)
	}
	for _, g := range r.link.GIDs {
		if g.Device == d.Name {
			out.GIDs = append(out.GIDs, g)
		}
	}
	return out
}

// podFileLock names the lock of a file, which belongs to a pod's interface, whichever container has that at the time.
func podFileLock(path string) string { return "pod file " + path }

func (p *plugin) writePodFile(ctx context.Context, dir *journal.Dir, t *attachment) error {
	b, err := json.Marshal(p.podInfoOf(t))
	if err != nil {
		return err
	}
	lock, err := p.sharedLock(ctx, dir, podFileLock(t.podFile.Path))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := writePublic(t.podFile.Path, b); err != nil {
		return dispatch.Errorf(dispatch.CodeIO, "write what the pod's programs need to know: %w", err)
	}
	p.Hit("add:podfile")
	return nil
}

// writePublic replaces a file that everybody may read, whatever the process's umask is, in a folder that a DEL may remove meanwhile.
func writePublic(path string, b []byte) error {
	folder := filepath.Dir(path)
	var err error
	for range 3 {
		if err = os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		err = errors.Join(os.Chmod(folder, 0o755), os.Chmod(filepath.Dir(folder), 0o755))
		if err == nil {
			err = writeAnew(path+tempFile, b)
		}
		if err == nil {
			err = os.Rename(path+tempFile, path)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// writeAnew makes a file where there may be anything: a pod that was given its folder to write to can put a link there to a file of the
// node's, a pipe, or a folder.
func writeAnew(path string, b []byte) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

// containerIn is the container that the file says it is of, or empty. What is no file of ours, and whatever a pod may have put there
// instead, is of nobody.
func containerIn(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if s, err := f.Stat(); err != nil || !s.Mode().IsRegular() || s.Size() > maxPodFile {
		return ""
	}
	var is podInfo
	b, err := io.ReadAll(io.LimitReader(f, maxPodFile))
	if err != nil || json.Unmarshal(b, &is) != nil {
		return ""
	}
	return is.ContainerID
}

// removePodFile removes the file, and the pod's folder with its last one. A file that says another container is that one's: the pod was
// made anew under its old UID before this attachment was undone.
func (u *undoing) removePodFile(ctx context.Context, f *journal.File) error {
	lock, err := u.sharedLock(ctx, u.dir, podFileLock(f.Path))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if of := containerIn(f.Path); of != "" && of != f.Container {
		return nil
	}
	for _, name := range []string{f.Path, f.Path + tempFile} {
		if err := os.RemoveAll(name); err != nil && !errors.Is(err, unix.ENOTDIR) {
			return dispatch.Errorf(dispatch.CodeIO, "remove what the pod's programs needed to know: %w", err)
		}
	}
	if err := unix.Rmdir(filepath.Dir(f.Path)); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
		u.Log.Warn("the folder of a pod's files cannot be removed", "path", filepath.Dir(f.Path), "error", err)
	}
	return nil
}
