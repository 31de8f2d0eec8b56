// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package compat reads the ipam sections of whereabouts and nv-ipam as they are written, and says which IPPools they
// mean. The IPAM plugin leases from these, the controller makes them, the migration fills them; all three ask here,
// so they mean the same.
//
// # Pools of whereabouts
//
// Whereabouts knows no pools: a config has ranges, and each range gives one address. Configs that write the same
// range under the same network_name share it. So each range is one IPPool of one family, whose name follows from
// network_name, subnet, first and last address and excluded addresses ([Range.PoolName]); whatever else a config says, gateway, routes and DNS,
// is the attachment's and comes into the result from the config. Excluded addresses become reserved ones: nobody
// gets one who does not ask for it by name, and who does has it alone. The network_name is the pool's domain.
//
// Ranges that overlap and are not the same are two pools of one domain, of which the controller accepts one.
//
// # Pools of nv-ipam
//
// A config names one pool, or two that give an address each. The IPPool has the same name, if that is one for an
// IPPool ([NVPoolName]).
//
// # Keys
//
// What a key asks for is done, or refused with an [ipam.FieldError] that names it, or, where it means nothing here
// (a log file, a lock's times), ignored, and [Call.Ignored] names it.
package compat
