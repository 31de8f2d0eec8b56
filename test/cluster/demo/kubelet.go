// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// kubelet does for the pods of all nodes what a kubelet and its container runtime do as far as the network goes: a pod that is
// bound to a node gets a network namespace there and an ADD of Multus, a deleted one a DEL. Pods that are bound to no node are
// bound in turn, as there is no scheduler. There are no containers in the pods.
type kubelet struct {
	client kubernetes.Interface
	hosts  map[string]*host
	order  []string // names of hosts
	// tell says to a person why a pod is not as it should be, once for each reason. It may be nil.
	tell func(pod string, err error)

	pods  cache.Store
	queue workqueue.TypedRateLimitingInterface[string]

	mu     sync.Mutex
	turn   int
	active map[string]*sandbox // by the key of the pod
	failed map[string]error    // the last failure of a pod, until it succeeds
}

func newKubelet(client kubernetes.Interface, hosts []*host) *kubelet {
	k := &kubelet{
		client: client,
		hosts:  map[string]*host{},
		active: map[string]*sandbox{},
		failed: map[string]error{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 5*time.Second)),
	}
	for _, h := range hosts {
		k.hosts[h.Name()] = h
		k.order = append(k.order, h.Name())
	}
	return k
}

// run works until ctx ends, and returns when nothing of it runs any more.
func (k *kubelet) run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(k.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	k.pods = informer.GetStore()
	enqueue := func(obj any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
			k.queue.Add(key)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, UpdateFunc: func(_, obj any) { enqueue(obj) }, DeleteFunc: enqueue,
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	var workers sync.WaitGroup
	for range 2 * len(k.order) {
		workers.Go(func() {
			for k.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	k.queue.ShutDown()
	workers.Wait()
	return nil
}

// next works on one pod; the queue sees to it that a pod is worked on by one worker at a time.
func (k *kubelet) next(ctx context.Context) bool {
	key, shutdown := k.queue.Get()
	if shutdown {
		return false
	}
	defer k.queue.Done(key)
	err := k.sync(ctx, key)
	if k.note(key, err) && k.tell != nil && ctx.Err() == nil {
		k.tell(key, err)
	}
	if err != nil {
		k.queue.AddRateLimited(key)
		return true
	}
	k.queue.Forget(key)
	return true
}

// note remembers what became of a pod, and says whether that is a failure that the last attempt did not have.
func (k *kubelet) note(key string, err error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	last := k.failed[key]
	if err == nil {
		delete(k.failed, key)
		return false
	}
	k.failed[key] = err
	return last == nil || last.Error() != err.Error()
}

// failures says what failed last, for the pods that are not as they should be.
func (k *kubelet) failures() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for key, err := range k.failed {
		errs = append(errs, fmt.Errorf("pod %s: %w", key, err))
	}
	return errors.Join(errs...)
}

// sandboxOf returns the running sandbox of a pod, or nil.
func (k *kubelet) sandboxOf(key string) *sandbox {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.active[key]
}

func (k *kubelet) setSandbox(key string, s *sandbox) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s == nil {
		delete(k.active, key)
		return
	}
	k.active[key] = s
}

// sync brings one pod a step nearer to what the API says of it; the next event takes the next step.
func (k *kubelet) sync(ctx context.Context, key string) error {
	obj, exists, err := k.pods.GetByKey(key)
	if err != nil {
		return err
	}
	var pod *corev1.Pod
	if exists {
		pod = obj.(*corev1.Pod)
	}
	if s := k.sandboxOf(key); s != nil {
		if s.complete && pod != nil && pod.UID == s.uid && pod.DeletionTimestamp == nil {
			return k.markRunning(ctx, pod, s)
		}
		if err := s.tearDown(ctx); err != nil {
			return err
		}
		k.setSandbox(key, nil)
	}
	switch {
	case pod == nil:
		return nil
	case pod.DeletionTimestamp != nil:
		return k.forget(ctx, pod)
	case pod.Spec.NodeName == "":
		return k.bind(ctx, pod)
	}
	h := k.hosts[pod.Spec.NodeName]
	if h == nil {
		return nil // bound to a node that we do not have
	}
	s := newSandbox(h, pod)
	k.setSandbox(key, s) // before anything is made: what fails halfway is torn down by the next attempt
	if err := s.setUp(ctx); err != nil {
		return err
	}
	return k.markRunning(ctx, pod, s)
}

// bind gives a pod to the next node in turn.
func (k *kubelet) bind(ctx context.Context, pod *corev1.Pod) error {
	k.mu.Lock()
	name := k.order[k.turn%len(k.order)]
	k.turn++
	k.mu.Unlock()
	err := k.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: name},
	}, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // deleted or bound meanwhile: an event says so
	}
	return err
}

// forget takes a pod that has ended out of the API.
func (k *kubelet) forget(ctx context.Context, pod *corev1.Pod) error {
	now := int64(0)
	err := k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// markRunning tells the API that a pod runs, once.
func (k *kubelet) markRunning(ctx context.Context, pod *corev1.Pod, s *sandbox) error {
	if pod.Status.Phase == corev1.PodRunning {
		return nil
	}
	status := corev1.PodStatus{
		Phase:      corev1.PodRunning,
		PodIP:      s.podIP,
		PodIPs:     []corev1.PodIP{{IP: s.podIP}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	for _, c := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		})
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = k.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
