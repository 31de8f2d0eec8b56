// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

// Package journal keeps what was done for every attachment of the node, so that it can be undone without anything
// else: no config, no live namespace, no API.
//
// # Protocol
//
// An attachment is one container ID and one interface name. Its journal is one file in [Dir]. Whoever works on an
// attachment holds its [Lock], so an ADD and a DEL of one attachment follow each other.
//
// ADD writes the whole plan before the first deed: a journal whose Result is nil is the intent of an ADD that is
// under way or died. After the last deed ADD writes it once more with the result. DEL undoes the steps from the last
// to the first, and removes the file when all of them are undone. Undoing may be repeated, and undoing what was
// never done is success; so whichever instant a process dies in, the next DEL, or the next ADD of the same attachment,
// takes it from there.
//
// # Guarantees
//
// A journal is written whole or not at all (a temporary file in the same folder, then a rename), and its temporary
// file has a fixed name under the attachment's lock, so that a dead writer's remains are overwritten or removed by
// the next. The folder belongs on tmpfs: it describes namespaces, which end with the boot as it does, and a write
// costs no disk access.
//
// # Versions
//
// [Version] grows when a reader of the version before would undo wrongly. A new kind of step is enough to be noticed:
// a reader that meets a step it does not know undoes the others, keeps the file and says so. Unknown fields are
// ignored.
package journal
