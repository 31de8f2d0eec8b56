// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Command kube is the control plane of the tests in one static binary: etcd, kube-apiserver and kubectl,
// chosen by the first argument or by the name it is called under. One binary links the shared packages once.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const usage = "usage: kube etcd|kube-apiserver|kubectl [ARG...]"

func main() {
	args := os.Args
	name := filepath.Base(args[0])
	if name == "kube" && len(args) > 1 {
		name, args = args[1], args[1:]
	}
	os.Args = args // the commands below read it themselves
	switch name {
	case "etcd":
		etcdmain.Main(args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
}
