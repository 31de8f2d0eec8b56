// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// APIOptions are the choices of StartAPI; the zero value is good.
type APIOptions struct {
	// Tools holds the programs; FindTools is asked when it is empty.
	Tools Tools
	// Dir is where to make the API's folder (logs, certificates, kubeconfigs); the system's temporary folder when empty.
	// Its path must be short (below 60 bytes), as there is a socket in it.
	Dir string
	// Log is told what is done; nothing is when it is nil.
	Log *slog.Logger
	// Flags are added to those of kube-apiserver, and win over them.
	Flags []string
	// LAN, if it is not nil, is where the API server is, for a cluster with kubelets and the other controllers: it serves on
	// ServiceAPIAddress there, tells every pod its service account's token, reaches kubelets, and lets each of them write only what
	// is its node's. From the host it is reached as one without a LAN.
	LAN *LAN
}

// API is a running kube-apiserver on an etcd of its own, reached on the loopback interface.
type API struct {
	tools   Tools
	log     *slog.Logger
	scratch *scratch
	space   *space // of the servers: a tmpfs for etcd's data, and the LAN; nil when not root
	flags   []string
	lan     *LAN
	forward *forwarder // from the host into the LAN

	ca    *authority
	admin pair
	port  int

	etcd, server *Process

	client *kubernetes.Clientset
}

const (
	startTimeout = 60 * time.Second
	portAttempts = 5
)

// errPortTaken says that another process took the port between our choice and the server's listen.
var errPortTaken = errors.New("port was taken by another process")

// StartAPI starts etcd and kube-apiserver and returns when the API is ready and has its default namespace. ctx bounds the start
// only. The caller must Stop it; if it dies instead, the kernel ends the servers.
func StartAPI(ctx context.Context, o APIOptions) (_ *API, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	a := &API{tools: o.Tools, log: o.Log, flags: o.Flags, lan: o.LAN}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.tools == "" {
		if a.tools, err = FindTools(); err != nil {
			return nil, err
		}
	}
	if _, err := a.tools.Path("kube"); err != nil {
		return nil, err
	}
	if a.scratch, err = newScratch(o.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start the test API server: %w", errors.Join(err, a.Stop()))
		}
	}()
	if a.ca, a.admin, err = writePKI(a.Dir(), time.Now()); err != nil {
		return nil, err
	}
	if err := a.startEtcd(); err != nil {
		return nil, err
	}
	port, err := a.joinLAN()
	if err != nil {
		return nil, err
	}
	if err := a.startServer(ctx, port); err != nil {
		return nil, err
	}
	if err := a.writeKubeconfig(a.Kubeconfig(), a.user()); err != nil {
		return nil, err
	}
	return a, nil
}

// startEtcd starts etcd on a socket in our folder: no port to clash on, and no etcd of another test to write to by mistake.
func (a *API) startEtcd() error {
	data := filepath.Join(a.Dir(), "etcd")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		var err error
		a.space, err = newSpace(unix.CLONE_NEWNS, func() error {
			if err := unix.Mount("etcd", data, "tmpfs", 0, "mode=0700"); err != nil {
				return fmt.Errorf("mount a tmpfs for etcd: %w", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	// etcd takes a unix URL's host for a file name in its working directory, and allows no path there.
	cmd := a.kube("etcd", "--name=test", "--data-dir="+data, "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=unix://etcd.sock:0", "--advertise-client-urls=unix://etcd.sock:0",
		"--listen-peer-urls=unix://peer.sock:0", "--initial-advertise-peer-urls=unix://peer.sock:0",
		"--initial-cluster=test=unix://peer.sock:0")
	var err error
	a.etcd, err = startIn(a.space, cmd, filepath.Join(a.Dir(), "etcd.log"))
	return err
}

// startServer starts kube-apiserver on a port, or on any free one, and waits until it is ready.
func (a *API) startServer(ctx context.Context, port int) error {
	began := time.Now()
	for range portAttempts {
		a.port = port
		if port == 0 {
			var err error
			if a.port, err = freePort(); err != nil {
				return err
			}
		}
		err := a.tryServer(ctx)
		if err == nil {
			a.log.Info("API server is ready", "url", a.URL(), "took", time.Since(began).Round(time.Millisecond))
			return nil
		}
		if !errors.Is(err, errPortTaken) || port != 0 {
			return err
		}
		a.log.Info("API server's port was taken by another process, trying another", "port", a.port)
	}
	return fmt.Errorf("no free port after %d attempts", portAttempts)
}

func (a *API) tryServer(ctx context.Context) error {
	in := func(name string) string { return filepath.Join(a.Dir(), name) }
	args := []string{
		"--etcd-servers=unix://" + in("etcd.sock:0"),
		"--tls-cert-file=" + in("apiserver.crt"), "--tls-private-key-file=" + in("apiserver.key"), "--client-ca-file=" + in("ca.crt"),
		"--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/24", "--endpoint-reconciler-type=none",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + in("sa.pub"), "--service-account-signing-key-file=" + in("sa.key"),
		"--allow-privileged=true", "--profiling=false",
	}
	args = append(args, a.placeArgs()...)
	log := in("kube-apiserver.log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return err
	}
	var err error
	if a.server, err = startIn(a.space, a.kube("kube-apiserver", append(args, a.flags...)...), log); err != nil {
		return err
	}
	if a.client, err = kubernetes.NewForConfig(a.RESTConfig()); err != nil {
		return err
	}
	ready := func(ctx context.Context) error {
		if err := a.client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
			return err
		}
		_, err := a.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
		return err
	}
	return a.await(ctx, ready)
}

// await repeats ready until it is nil, a server dies or ctx ends.
func (a *API) await(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := ready(once)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-a.etcd.Done():
			return a.etcd.Err()
		case <-a.server.Done():
			if tail, tailErr := logTail(a.server.Log(), 4000); tailErr == nil && bytes.Contains(tail, []byte("address already in use")) {
				return fmt.Errorf("%w: %w", errPortTaken, a.server.Err())
			}
			return a.server.Err()
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w (last answer: %w); %s", ctx.Err(), err, describeLog(a.server.Log()))
		case <-tick.C:
		}
	}
}

// Stop ends the servers, the API server first, and removes the API's folder. It may be called again.
func (a *API) Stop() error {
	errs := []error{a.stopServers()}
	errs = append(errs, a.scratch.remove())
	return errors.Join(errs...)
}

// StopKeepingLogs is Stop but leaves the folder, Dir, in place.
func (a *API) StopKeepingLogs() error {
	return errors.Join(a.stopServers(), ignoreClosed(a.scratch.lock.Close()), os.Remove(filepath.Join(a.Dir(), lockName)))
}

// stopServers kills: an orderly stop takes seconds, and their state ends with them.
func (a *API) stopServers() error {
	a.StopServer()
	if a.etcd != nil {
		a.etcd.Kill()
	}
	var errs []error
	if a.forward != nil {
		errs = append(errs, a.forward.close())
	}
	if a.space != nil {
		errs = append(errs, a.space.close())
	}
	return errors.Join(errs...)
}

// StopServer takes the API away, as an outage does; what is stored stays. RestartServer brings it back.
func (a *API) StopServer() {
	if a.server != nil {
		a.server.Kill()
	}
}

// RestartServer starts the API server again after StopServer, at the same address.
func (a *API) RestartServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return a.startServer(ctx, a.port)
}

// Dir is the API's folder, with logs, certificates and kubeconfigs.
func (a *API) Dir() string { return a.scratch.dir }

// Port is the API server's port on 127.0.0.1.
func (a *API) Port() int { return a.port }

// URL is the API server's address.
func (a *API) URL() string { return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(a.port)) }

// Kubeconfig is the path of the administrator's kubeconfig.
func (a *API) Kubeconfig() string { return filepath.Join(a.Dir(), "admin.kubeconfig") }

// Client is the administrator's client.
func (a *API) Client() *kubernetes.Clientset { return a.client }

// Tools is where this API's programs come from.
func (a *API) Tools() Tools { return a.tools }

// RESTConfig returns the administrator's access, without a client-side rate limit. The caller may change it.
func (a *API) RESTConfig() *rest.Config {
	return &rest.Config{
		Host:            a.URL(),
		TLSClientConfig: rest.TLSClientConfig{CAData: a.ca.pem, CertData: a.admin.cert, KeyData: a.admin.key},
		QPS:             -1,
	}
}

// kube makes a command of the multi-call binary, with our folder as its working and home directory.
func (a *API) kube(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(string(a.tools), "kube"), append([]string{program}, args...)...)
	cmd.Dir, cmd.Env = a.Dir(), a.env()
	return cmd
}

func (a *API) env() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + a.Dir(), "TMPDIR=" + a.Dir()}
}

// freePort returns a port that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// IsUnavailable says that err is the answer of an API that is down or not ready, rather than of one that refused.
func IsUnavailable(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err != nil
	}
	return status.Status().Code >= http.StatusInternalServerError
}
