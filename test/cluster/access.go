// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The service account of the agents, as manifests/rbac names it.
const (
	AgentNamespace      = "railyard-system"
	AgentServiceAccount = "railyard-agent"
	// ControllerServiceAccount is that of the controller.
	ControllerServiceAccount = "railyard-controller"
)

// tokenSeconds outlasts any test; the API server allows no less than 600.
const tokenSeconds = 24 * 3600

// EnsureNode returns the Node object of that name, and creates it, ready, if there is none.
func (a *API) EnsureNode(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := a.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err == nil || !apierrors.IsNotFound(err) {
		return node, err
	}
	node, err = a.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:   name,
		Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux"},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return a.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("create node %s: %w", name, err)
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test"}}
	ready, err := a.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("mark node %s ready: %w", name, err)
	}
	return ready, nil
}

// NodeConfig returns what the agent on that node gets: a token of the agents' service account that is bound to the Node object, as
// a DaemonSet's projected token is. The API server tells the node's name from it, and refuses it when that Node is gone.
// Node, namespace and service account are created if they are missing.
func (a *API) NodeConfig(ctx context.Context, node string) (*rest.Config, error) {
	obj, err := a.EnsureNode(ctx, node)
	if err != nil {
		return nil, err
	}
	token, err := a.token(ctx, AgentNamespace, AgentServiceAccount, &authv1.BoundObjectReference{
		APIVersion: "v1", Kind: "Node", Name: obj.Name, UID: obj.UID,
	})
	if err != nil {
		return nil, fmt.Errorf("credential for node %s: %w", node, err)
	}
	return a.tokenConfig(token), nil
}

// NodeKubeconfig is NodeConfig as a file, for an API server that is reached at the address server ("" = where it listens).
func (a *API) NodeKubeconfig(ctx context.Context, node, server string) (string, error) {
	cfg, err := a.NodeConfig(ctx, node)
	if err != nil {
		return "", err
	}
	return a.kubeconfigFor(cfg, server, "node-"+node)
}

// ServiceAccountConfig returns the access of a service account; it and its namespace are created if they are missing.
func (a *API) ServiceAccountConfig(ctx context.Context, namespace, name string) (*rest.Config, error) {
	token, err := a.token(ctx, namespace, name, nil)
	if err != nil {
		return nil, fmt.Errorf("credential for service account %s/%s: %w", namespace, name, err)
	}
	return a.tokenConfig(token), nil
}

// ServiceAccountKubeconfig is ServiceAccountConfig as a file, for an API server that is reached at the address server ("" = where it
// listens).
func (a *API) ServiceAccountKubeconfig(ctx context.Context, namespace, name, server string) (string, error) {
	cfg, err := a.ServiceAccountConfig(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	return a.kubeconfigFor(cfg, server, "sa-"+namespace+"-"+name)
}

// AdminKubeconfig writes an administrator's kubeconfig for an API server that is reached at the address server.
func (a *API) AdminKubeconfig(name, server string) (string, error) {
	return a.kubeconfigFor(a.RESTConfig(), server, name)
}

func (a *API) token(ctx context.Context, namespace, account string, bound *authv1.BoundObjectReference) (string, error) {
	_, err := a.client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	accounts := a.client.CoreV1().ServiceAccounts(namespace)
	_, err = accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	seconds := int64(tokenSeconds)
	reply, err := accounts.CreateToken(ctx, account, &authv1.TokenRequest{
		Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: bound},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("request a token: %w", err)
	}
	return reply.Status.Token, nil
}

func (a *API) tokenConfig(token string) *rest.Config {
	cfg := a.RESTConfig()
	cfg.CertData, cfg.KeyData = nil, nil
	cfg.BearerToken = token
	return cfg
}

func (a *API) kubeconfigFor(cfg *rest.Config, server, name string) (string, error) {
	path := filepath.Join(a.Dir(), name+".kubeconfig")
	user := &clientcmdapi.AuthInfo{Token: cfg.BearerToken, ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}
	return path, a.writeKubeconfigTo(path, server, user)
}

// user is the administrator, for a kubeconfig.
func (a *API) user() *clientcmdapi.AuthInfo {
	return &clientcmdapi.AuthInfo{ClientCertificateData: a.admin.cert, ClientKeyData: a.admin.key}
}

func (a *API) writeKubeconfig(path string, user *clientcmdapi.AuthInfo) error {
	return a.writeKubeconfigTo(path, "", user)
}

func (a *API) writeKubeconfigTo(path, server string, user *clientcmdapi.AuthInfo) error {
	if server == "" {
		server = a.URL()
	}
	const name = "railyard"
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: a.ca.pem}
	cfg.AuthInfos[name] = user
	cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	cfg.CurrentContext = name
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
