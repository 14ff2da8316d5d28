package tree

import (
	"errors"

	"github.com/pulkdb/db/pagecache"
)

// What an operation can answer.
var (
	// ErrNotFound: the key is absent.
	ErrNotFound = errors.New("tree: key not found")
	// ErrUnsorted: the operations of a batch are not sorted by key, or not unique.
	ErrUnsorted = errors.New("tree: batch is not sorted or has a key twice")
	// ErrTooLarge: a key is longer than MaxKeyBytes or a value than MaxValueBytes.
	ErrTooLarge = pagecache.ErrTooLarge
	// ErrReadOnly: a write to a store opened read-only.
	ErrReadOnly = pagecache.ErrReadOnly
	// ErrClosed: the store is closed.
	ErrClosed = pagecache.ErrClosed
	// ErrCorrupt: the bytes of a page are not what the tree writes, or pages
	// contradict each other.
	ErrCorrupt = pagecache.ErrCorrupt
)
