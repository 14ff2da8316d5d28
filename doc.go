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
// that the crash tore, and is cut off as such. Verify checks a whole store; Salvage
// brings out of a damaged store what can be trusted, into a new one, and says what
// is lost. Backup writes a copy of a store that is in use, or of what has changed
// since an earlier one, and Restore makes a store of it.
//
// # Isolation
//
// A completed write is seen by every read that starts after it. A Batch, a
// DeleteRange and a transaction are seen whole or not at all. CompareAndSwap
// reads and writes in one step. Readers take no locks and wait for no writer, and
// writers do not wait for readers.
//
// A Snapshot, an Iterator and a transaction see the store as it stood when they
// were made, however long they live. While one is open, the store keeps the
// versions that it can see, in memory and on disk, and nothing else is any
// dearer for it; so they must be closed. What only they kept goes soon after that,
// in the background. Metrics.Versions says how many are open, for how long, and
// what they keep.
//
// Transactions (Update, View, Begin) are serializable, and any number may run at
// once. A transaction notes the keys that it reads, present or absent, and the
// ranges that it scans, as far as it does in either direction, with the gap
// between a seek and the row found. Commit fails with ErrConflict if one of these
// was written to since the transaction began, also if the write left the same
// value there. So neither lost updates nor write skew nor phantoms happen. What
// only reads never fails so, and neither does what only writes: Set, Delete,
// DeleteRange and Merge, in a transaction too, conflict with no write. Of
// transactions in conflict with each other one at least is committed; but one
// that reads much, while others write there all the time, may never be. Update
// gives up after 100 tries.
//
// A transaction is limited by memory: it holds what it writes, and the bounds of
// the disjoint ranges that it reads. The check at Commit looks at the pages that
// were read, so it costs what the transaction read, whatever else goes on.
//
// # Merge operands
//
// With Options.Merger, Merge adds an operand to a key without reading it; the
// Merger folds operands into the value when somebody reads it, and in the
// background. Where it fails, reads of that key do, and nothing is lost. An
// operand is about 250 KiB long at most.
//
// # Concurrency
//
// All methods of a DB and of a Snapshot may be called from any number of
// goroutines. An Iterator, a Batch and a Tx, with its iterators, belong to one
// goroutine at a time. Close may be called at any time: it does not wait for
// open iterators, snapshots and transactions, whose next use fails with
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
