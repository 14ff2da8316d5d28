package snapshot

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// A Sink takes what Load finds. Each function may be nil.
type Sink struct {
	// Seen is called with the header of every file that was looked at and can be
	// read, of those too that prove unusable.
	Seen func(Header)
	// Passed is called with what is wrong with each snapshot that is passed over:
	// if the older ones are not enough, that is why.
	Passed func(error)
	// Accept is called with the header of a snapshot of which all files are
	// there, and with these, base first. It may return an error that wraps
	// ErrRefused: then an older snapshot is taken. Each call is a fresh start: if
	// slots have been delivered before, they are to be forgotten.
	Accept func(h Header, files []File) error
	// Slot is called with each slot of each of the files; file is the index of
	// the slot's in those of Accept. What a later file says of a PID takes the
	// place of what was said before. All slots of one file are delivered before
	// the first of the next; those of one file are delivered by several
	// goroutines at once, each PID by one of them. What Positions are in is
	// overwritten after the call.
	Slot func(file int, s Slot) error
}

// Load finds the newest usable snapshot of dir and delivers it.
//
// It takes the snapshots newest first. One that is damaged, unreadable, of
// another store, or builds on one that is, is reported to logger, and the next
// older one is taken; damage to the slots of a file may be found after others
// have been delivered. Errors of Accept and Slot, but for ErrRefused, end Load
// and are returned as they are, and so is log.ErrVersion (S6).
//
// found is false, without an error, if there is no usable snapshot. Then the
// whole log is needed, from its first segment: the caller has to check that it
// is all there, and if it is not, that is corruption.
func Load(fsys vfs.FS, dir string, storeID [16]byte, logger *slog.Logger, sink Sink) (h Header, found bool, err error) {
	infos, err := List(fsys, dir)
	if err != nil {
		return Header{}, false, err
	}
	l := loader{fs: fsys, dir: dir, storeID: storeID, sink: sink}
	for _, info := range infos {
		h, err := l.load(info.Sequence)
		var fatal *callbackError
		switch {
		case err == nil:
			return h, true, nil
		case errors.Is(err, log.ErrVersion):
			return Header{}, false, err
		case errors.As(err, &fatal) && !errors.Is(err, ErrRefused):
			return Header{}, false, fatal.err
		}
		paths.Hit(paths.SnapshotFallback)
		if sink.Passed != nil {
			sink.Passed(fmt.Errorf("page-table snapshot %s was passed over: %w", info.Name, err))
		}
		if logger != nil {
			logger.Warn("page-table snapshot cannot be used, trying an older one",
				"file", info.Name, "error", err)
		}
	}
	return Header{}, false, nil
}

// A callbackError sets what the Sink said apart from what is wrong with the
// files.
type callbackError struct{ err error }

func (e *callbackError) Error() string { return e.err.Error() }
func (e *callbackError) Unwrap() error { return e.err }

type loader struct {
	fs      vfs.FS
	dir     string
	storeID [16]byte
	sink    Sink
}

// load delivers the snapshot of one sequence.
func (l *loader) load(sequence uint64) (Header, error) {
	readers, err := l.open(sequence)
	defer func() {
		for _, r := range readers {
			r.close()
		}
	}()
	if err != nil {
		return Header{}, err
	}
	h := readers[len(readers)-1].end.header
	if l.sink.Accept != nil {
		files := make([]File, len(readers))
		for i, r := range readers {
			files[i] = File{Link: r.link(), Bytes: r.size, Slots: r.end.slots}
		}
		if err := l.sink.Accept(h, files); err != nil {
			return Header{}, &callbackError{err}
		}
	}
	for i, r := range readers {
		deliver := func(s Slot) error { return nil }
		if l.sink.Slot != nil {
			deliver = func(s Slot) error { return l.sink.Slot(i, s) }
		}
		if err := r.deliver(deliver); err != nil {
			return Header{}, err
		}
	}
	return h, nil
}

// open opens the files of a snapshot and returns them, base first; with an error
// those that are open.
func (l *loader) open(sequence uint64) (readers []*reader, err error) {
	defer func() { slices.Reverse(readers) }()
	for {
		r, err := openReader(l.fs, fileName(l.dir, sequence, suffix))
		if err != nil {
			return readers, err
		}
		readers = append(readers, r)
		switch {
		case r.identity.StoreID != l.storeID:
			return readers, r.corrupt(0, errStore)
		case r.identity.Sequence != sequence:
			return readers, r.corrupt(0, errSequence)
		}
		if len(readers) > 1 {
			if child := readers[len(readers)-2]; child.identity.Parent != r.link() {
				return readers, child.corrupt(0, fmt.Errorf("%w: %s", errParent, r.name))
			}
		} else if l.sink.Seen != nil {
			l.sink.Seen(r.end.header)
		}
		parent := r.identity.Parent
		switch {
		case parent == Link{}:
			return readers, nil
		case parent.Sequence >= sequence:
			return readers, r.corrupt(0, errParent)
		}
		sequence = parent.Sequence
	}
}
