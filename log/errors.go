package log

import (
	"errors"
	"fmt"
)

// What Open can answer.
var (
	// ErrLocked: another log has the directory open.
	ErrLocked = errors.New("log: directory is locked")
	// ErrNotStore: the directory holds other files and no store. Nothing was changed.
	ErrNotStore = errors.New("log: not a store")
	// ErrVersion: the format, or a feature it requires, is unknown to this program.
	ErrVersion = errors.New("log: unknown format version or feature")
	// ErrCorrupt: the files are not as they were written. Always within a *CorruptError.
	ErrCorrupt = errors.New("log: corrupt")
)

// What an open log can answer.
var (
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log: closed")
	// ErrReadOnly: the log was opened with ReadOnly.
	ErrReadOnly = errors.New("log: read-only")
	// ErrFailed: a write or sync failed earlier, which is final. The error
	// that carries it wraps the cause as well.
	ErrFailed = errors.New("log: failed")
	// ErrTooLarge: more bytes than one record holds; see MaxRecord.
	ErrTooLarge = errors.New("log: record too large")
	// ErrGone: the segment was recycled.
	ErrGone = errors.New("log: segment is gone")
	// ErrState: a call that must come before or after another, such as
	// Reserve before Start.
	ErrState = errors.New("log: call out of order")
)

// A CorruptError says where a file is not as it was written.
type CorruptError struct {
	File   string
	Offset int64 // bytes from the start of File
	LSN    LSN   // zero where there is none
	Err    error // what is wrong
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("log: corrupt: %s at offset %d (LSN %v): %v", e.File, e.Offset, e.LSN, e.Err)
}

// Unwrap returns what is wrong.
func (e *CorruptError) Unwrap() error { return e.Err }

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }
