// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// lanAPIURL is the API server's address for everybody in a LAN.
const lanAPIURL = "https://" + ServiceAPIAddress + ":443"

// kubeletClient is the name of the API server's own credential for kubelets.
const kubeletClient = "kubelet-client"

// placeArgs are the flags of kube-apiserver that differ between one for tests of API objects and one of a whole cluster.
func (a *API) placeArgs() []string {
	if a.lan == nil {
		return []string{
			"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + strconv.Itoa(a.port),
			// Nobody makes default service accounts, and no garbage collector looks for owners here.
			"--disable-admission-plugins=ServiceAccount",
		}
	}
	return []string{
		"--bind-address=0.0.0.0", "--advertise-address=" + lanGateway().String(), "--secure-port=443",
		"--enable-admission-plugins=NodeRestriction",
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + filepath.Join(a.Dir(), kubeletClient+".crt"),
		"--kubelet-client-key=" + filepath.Join(a.Dir(), kubeletClient+".key"),
	}
}

// joinLAN makes what an API server in a LAN needs beside the others, and returns the port by which the host reaches it: one that is
// ours for good, as we listen there ourselves. Without a LAN it returns 0.
func (a *API) joinLAN() (port int, err error) {
	if a.lan == nil {
		return 0, nil
	}
	cert, err := a.ca.sign(pkix.Name{CommonName: kubeletClient, Organization: []string{"system:masters"}}, nil)
	if err != nil {
		return 0, fmt.Errorf("make the API server's certificate for kubelets: %w", err)
	}
	for suffix, data := range map[string][]byte{".crt": cert.cert, ".key": cert.key} {
		if err := os.WriteFile(filepath.Join(a.Dir(), kubeletClient+suffix), data, 0o600); err != nil {
			return 0, err
		}
	}
	if a.forward, err = newForwarder(nil, "127.0.0.1:0", a.lan.space, ServiceAPIAddress+":443"); err != nil {
		return 0, err
	}
	fd, err := unix.FcntlInt(a.lan.space.net.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	a.space.net = os.NewFile(uintptr(fd), a.lan.space.net.Name())
	return a.forward.listener.Addr().(*net.TCPAddr).Port, nil
}

// ComponentKubeconfig writes the access of a part of the cluster to a file, for use inside of the LAN: a certificate with that user
// and those groups.
func (a *API) ComponentKubeconfig(user string, groups ...string) (string, error) {
	cert, err := a.ca.sign(pkix.Name{CommonName: user, Organization: groups}, nil)
	if err != nil {
		return "", fmt.Errorf("make the certificate of %s: %w", user, err)
	}
	path := filepath.Join(a.Dir(), user+".kubeconfig")
	return path, a.writeKubeconfigTo(path, lanAPIURL, &clientcmdapi.AuthInfo{ClientCertificateData: cert.cert, ClientKeyData: cert.key})
}
