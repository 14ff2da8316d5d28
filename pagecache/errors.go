package pagecache

import (
	"errors"
	"fmt"

	"github.com/pulkdb/db/log"
)

// Errors of single pages.
var (
	// ErrGone: the PID is not in use.
	ErrGone = errors.New("pagecache: page is gone")
	// ErrChanged: the page is not as the Key saw it. Errors that carry the present
	// Key are *ChangedError.
	ErrChanged = errors.New("pagecache: page has changed")
	// ErrTooLarge: a fragment exceeds what one record of the log can hold.
	ErrTooLarge = log.ErrTooLarge
)

// Errors of the whole cache.
var (
	ErrClosed   = log.ErrClosed
	ErrReadOnly = log.ErrReadOnly
	ErrCorrupt  = log.ErrCorrupt
)

// A ChangedError says that a page had changed, and how it is now.
type ChangedError struct {
	PID PID
	Key Key // as of the failed update
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("pagecache: page %d has changed: it is at version %d", e.PID, e.Key.version)
}

// Is reports whether target is ErrChanged.
func (e *ChangedError) Is(target error) bool { return target == ErrChanged }
