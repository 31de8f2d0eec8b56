// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package render turns a network resource into the NetworkAttachmentDefinition that pods refer to.
//
// It is a pure function: the same resource gives the same bytes. The configuration is a value of package conf put through the JSON
// encoder, never text put into a template, so it is JSON whatever the resource holds, and it is parsed again, as the plugin will
// parse it, before it is handed out. The JSON that the user wrote (ipam, metaPlugins) is checked and compacted; strings in it stay
// byte for byte, and keys keep their order.
//
// The kinds differ in what makes the link, and in annotations that others read; all the rest is the same for all of them. A further
// kind is one more case in linkOf.
//
// Every error is an [ErrInvalid] and made of [FieldError]s, joined.
package render
