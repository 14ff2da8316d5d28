package tree

import (
	"errors"

	"github.com/pulkdb/db/pagecache"
)

// What an operation can answer.
var (
	// ErrNotFound: the key is absent.
	ErrNotFound = errors.New("tree: key not found")
	// ErrUnsorted: the keys or ranges of a commit are not sorted and disjoint, or a
	// range is empty.
	ErrUnsorted = errors.New("tree: keys or ranges are not sorted and disjoint")
	// ErrTooLarge: a key is longer than MaxKeyBytes or a value than MaxValueBytes.
	ErrTooLarge = pagecache.ErrTooLarge
	// ErrNoMerger: a merge operand, to be written or read, and no Options.Merger.
	ErrNoMerger = errors.New("tree: no merger")
	// ErrConflict: something that a transaction read has been written to since. Nothing
	// of the transaction has happened.
	ErrConflict = errors.New("tree: conflict with another write")
	// ErrReadOnly: a write to a store opened read-only.
	ErrReadOnly = pagecache.ErrReadOnly
	// ErrClosed: the store is closed.
	ErrClosed = pagecache.ErrClosed
	// ErrCorrupt: the bytes of a page are not what the tree writes, or pages
	// contradict each other.
	ErrCorrupt = pagecache.ErrCorrupt
)
