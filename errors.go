package db

import (
	"errors"

	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/tree"
)

// Answers of a store in good order. All errors of this package work with
// errors.Is.
var (
	// ErrNotFound: the key is not there.
	ErrNotFound = tree.ErrNotFound

	// ErrTooLarge: a key is longer than MaxKeyBytes, a value longer than
	// MaxValueBytes or of a negative length, or a merge operand longer than about
	// 250 KiB.
	ErrTooLarge = tree.ErrTooLarge

	// ErrReadOnly: a write to a store that was opened with
	// Options.ReadOnly, or in a transaction that is not writable.
	ErrReadOnly = tree.ErrReadOnly

	// ErrNoMerger: a merge operand, to be written or found on a key that is
	// read, in a store that was opened without Options.Merger.
	ErrNoMerger = tree.ErrNoMerger

	// ErrClosed: the store, the iterator or the snapshot was closed.
	ErrClosed = tree.ErrClosed
)

// Answers of transactions.
var (
	// ErrConflict: something that the transaction read has been written to
	// since it began. Nothing of it has happened; it may be tried again.
	ErrConflict = tree.ErrConflict

	// ErrTxDone: the transaction was committed or rolled back before.
	ErrTxDone = errors.New("db: transaction is finished")

	// ErrTxManaged: Commit or Rollback in the function of View or Update,
	// which do that themselves.
	ErrTxManaged = errors.New("db: transaction is finished by View or Update")
)

// Reasons why Open refuses.
var (
	// ErrInvalidOptions: a field of Options makes no sense; the error names
	// it.
	ErrInvalidOptions = errors.New("db: invalid options")

	// ErrNotStore: the path is a file, or a directory of something else, or,
	// for Options.ReadOnly, nothing that exists.
	ErrNotStore = log.ErrNotStore

	// ErrLocked: another process, or another DB of this one, has the store
	// open.
	ErrLocked = log.ErrLocked

	// ErrVersion: a file has a format version, or a required feature, that
	// this version of the package does not know.
	ErrVersion = log.ErrVersion
)

// Failures of the disk.
var (
	// ErrFailed: writing to a file or syncing it failed, now or earlier, and
	// the store takes no more writes. The error wraps the cause.
	ErrFailed = log.ErrFailed

	// ErrCorrupt: bytes that were durable have changed. The error is a
	// *CorruptError.
	ErrCorrupt = log.ErrCorrupt
)

// A CorruptError says where bytes were found that nobody wrote. It matches
// ErrCorrupt.
type CorruptError = log.CorruptError

// translate returns err with this package's sentinels for those of the packages
// below that mean the same. It allocates nothing for nil and ErrNotFound.
func (d *DB) translate(err error) error {
	if err == nil || err == ErrNotFound {
		return err
	}
	return d.translateRare(err)
}

func (d *DB) translateRare(err error) error {
	var corrupt *CorruptError
	switch {
	case errors.Is(err, log.ErrClosed):
		return ErrClosed
	case errors.Is(err, tree.ErrCorrupt) && !errors.As(err, &corrupt):
		return &CorruptError{File: d.dir, Err: err}
	}
	return err
}
