// Package db is an ordered key-value store for Go programs. It is a library:
// no server, no cgo. A store is a directory, opened by one process at a time, or
// by several that only read it.
//
// # What it holds
//
// Keys and values are bytes. Keys are 0 to 64 KiB long (MaxKeyBytes), values
// 0 to 1 GiB (MaxValueBytes), and keys are ordered as bytes.Compare orders
// them. The empty key is a key, and the empty value is a value: it comes back
// as []byte{}, not as nil. A nil key means the empty key and a nil value the
// empty value, except where CompareAndSwap says that nil means absent. What
// exceeds a limit is refused with ErrTooLarge.
//
// Arguments may be reused as soon as a call has returned, and what Get returns
// belongs to the caller.
//
// # Durability
//
// With the default, DurabilitySync, a write that has returned nil is on disk:
// it is found again after a crash of the program, of the operating system, or
// a loss of power. Writers that wait at the same time share one fdatasync.
// DurabilityPeriodic and DurabilityNone acknowledge earlier; a crash can then
// lose the newest writes, and Sync says when all of them are safe.
//
// Under every mode what survives a crash is a prefix of the log: a write that
// began after another returned is never there without it, and a batch is there
// whole or not at all. A read can see a write that is not durable yet.
//
// After a failed write or sync of a file the store takes no more writes: each
// fails with ErrFailed, which wraps the cause. Reads go on. Close and open the
// store once the cause is gone; nothing that was acknowledged as durable is
// lost.
//
// Bad bytes in a file are answered with a *CorruptError, which names file and
// offset and matches ErrCorrupt, and never with wrong data. One case cannot be
// told apart: damage to the very last writes before a crash looks like a write
// that the crash tore, and is cut off as such.
//
// # Isolation
//
// A completed write is seen by every read that starts after it. A Batch is
// seen whole or not at all. An Iterator sees the store as it stood when Scan
// was called, however long it lives. CompareAndSwap reads and writes in one
// step. Readers take no locks and wait for no writer, and writers do not wait
// for readers.
//
// # Concurrency
//
// All methods of a DB may be called from any number of goroutines. An Iterator
// and a Batch belong to one goroutine at a time. Close may be called at any
// time: it does not wait for open iterators, whose next use fails with
// ErrClosed.
//
// # Compatibility
//
// Only this package is covered by compatibility promises. The packages below
// it (tree, pagecache, snapshot, log) can be used on their own, but may change
// with any version.
//
// To read the source, start with db.go and follow Set into package tree;
// docs/design.md says how the packages work together.
package db
