// Package vfs is the file system under the store: every file operation goes
// through an FS, so that tests can replace it.
//
//   - OS is the real one;
//   - Mem keeps files in memory and remembers what was synced: CrashClone is the
//     file system as it may stand after a power loss;
//   - Fault wraps another and lets a test fail or delay any operation, in every
//     way in which it can fail. With a Mem below it a failed sync loses what it
//     should have written.
//
// Every FS and File may be used by many goroutines at once.
//
// What the callers may rely on, and what they may not: data are durable after
// File.Sync; a name (created, renamed, removed) is durable after SyncDir of its
// directory; a sector of 512 bytes is written whole or not at all; unsynced
// sectors may survive in any combination, and each in any version written since
// the last sync. After a failed sync nothing that was to be synced is known to be
// durable, whatever later syncs say and reads show, until it is written again.
//
// Read vfs.go first.
package vfs
