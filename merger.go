package db

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/pulkdb/db/tree"
)

// A Merger returns what operand makes of base, the value of key. A nil base
// means that the key is absent, a nil result that it is to be deleted; the empty
// slice is the empty value.
//
// It must be a pure function: the same operands are folded as often as the store
// likes, while it is read and in the background, by many goroutines at once, and
// again by later processes. It must not call the store. Its arguments are its
// own, to be changed or returned.
//
// If it returns an error or panics, reads of that key fail with a *MergeError.
// The operands are kept: a store that is opened with a Merger which knows
// better finds them all, and a Set or Delete of the key ends the matter.
type Merger func(key, base, operand []byte) ([]byte, error)

// A MergeError says that Options.Merger failed or panicked on an operand of Key.
type MergeError = tree.MergeError

// isMergeFailure reports whether err is about the operands of one key.
func isMergeFailure(err error) bool {
	var failed *MergeError
	return errors.Is(err, ErrNoMerger) || errors.As(err, &failed)
}

// fold returns what the write makes of stored, which is looked at if its kind is
// OpMerge; nil means absent. The result may be the write's own value.
func (w *pointWrite) fold(merger Merger, stored []byte) ([]byte, error) {
	value := stored
	switch w.kind {
	case OpSet:
		value = w.value
	case OpDelete:
		value = nil
	}
	for _, operand := range w.operands {
		var err error
		if value, err = callMerger(merger, w.key, value, operand); err != nil {
			return nil, err
		}
	}
	return value, nil
}

// callMerger gives the merger copies, and copies what it returns.
func callMerger(merger Merger, key, base, operand []byte) (value []byte, err error) {
	if merger == nil {
		return nil, ErrNoMerger
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("merger panicked: %v", r)
		}
		if err != nil {
			value, err = nil, &MergeError{Key: append([]byte{}, key...), Err: err}
		}
	}()
	value, err = merger(append([]byte{}, key...), bytes.Clone(base), append([]byte{}, operand...))
	if err == nil && len(value) > MaxValueBytes {
		err = fmt.Errorf("%w: a result of %d bytes", ErrTooLarge, len(value))
	}
	return bytes.Clone(value), err
}
