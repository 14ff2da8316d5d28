package log

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pulkdb/db/internal/vfs"
)

// Read returns the update at p, verified: from its buffer while it is there,
// else from the file. The bytes are appended to dst, which is returned, and
// Payload aliases it. Of an update whose record is not completed yet it waits
// for that, which is soon. Errors: *CorruptError when the bytes are not those
// that were written; ErrGone when the segment was recycled; one that wraps
// ErrFailed when the log has failed and the system gave up what it had not synced.
func (l *Log) Read(p Position, dst []byte) (Update, []byte, error) {
	if l.closed.Load() {
		return Update{}, dst, ErrClosed
	}
	s := l.segmentAt(p.LSN)
	if s == nil {
		return Update{}, dst, ErrGone
	}
	size := int(p.Size)
	off := l.offset(s, p.LSN)
	if off < headerBytes || uint64(off)+uint64(size) > l.segmentBytes || size <= updateOffLength {
		return Update{}, dst, &CorruptError{File: segmentName(s.base), Offset: off, LSN: p.LSN, Err: errLayout}
	}
	l.metrics.reads.Add(1)
	start := len(dst)
	dst = slices.Grow(dst, size)[:start+size]
	target := dst[start:]
	end := p.LSN + LSN(size)
	for !s.recovered && LSN(s.written.Load()) < end {
		found, err := l.readBuffer(p.LSN, target, s)
		if err != nil {
			return Update{}, dst[:start], err
		}
		if found {
			l.metrics.readsMemory.Add(1)
			return l.verified(s, p, dst, start)
		}
	}
	yield(yieldRead)
	if err := l.readFile(s, target, off); err != nil {
		switch {
		case s.gone.Load():
			err = ErrGone
		case l.closed.Load():
			err = ErrClosed
		default:
			err = l.lost(s, end, err)
		}
		return Update{}, dst[:start], err
	}
	return l.verified(s, p, dst, start)
}

// ReadTogether reads the updates at ps, in ascending order of LSN, with one read of the
// file if they lie in one segment and all are in its file, and one by one if not. What
// lies between them is read as well. Payloads are the caller's. Errors: those of Read,
// of the first that cannot be read.
func (l *Log) ReadTogether(ps []Position) ([]Update, error) {
	updates := make([]Update, len(ps))
	done, err := l.readRun(ps, updates)
	if done || err != nil {
		return updates, err
	}
	for i, p := range ps {
		if updates[i], _, err = l.Read(p, nil); err != nil {
			return nil, err
		}
	}
	return updates, nil
}

// readRun is ReadTogether with one read. It reports false if that is not possible.
func (l *Log) readRun(ps []Position, updates []Update) (bool, error) {
	first, last := ps[0], ps[len(ps)-1]
	s := l.segmentAt(first.LSN)
	if l.closed.Load() || s == nil || len(ps) == 1 {
		return false, nil
	}
	off, end := l.offset(s, first.LSN), last.LSN+LSN(last.Size)
	n := uint64(end - first.LSN)
	if off < headerBytes || n > l.segmentBytes || uint64(off)+n > l.segmentBytes || !s.recovered && LSN(s.written.Load()) < end {
		return false, nil
	}
	data := make([]byte, n)
	yield(yieldRead)
	if err := l.readFile(s, data, off); err != nil {
		return false, nil // Read says what is wrong
	}
	l.metrics.reads.Add(1)
	for i, p := range ps {
		at := int(p.LSN - first.LSN)
		if at < 0 || at+int(p.Size) > len(data) {
			return false, nil
		}
		u, err := verifyUpdate(data[at:at+int(p.Size):at+int(p.Size)], p.LSN, s.seed)
		if err != nil || s.gone.Load() {
			return false, nil
		}
		updates[i] = u
	}
	return true, nil
}

func (l *Log) verified(s *segment, p Position, dst []byte, start int) (Update, []byte, error) {
	u, err := verifyUpdate(dst[start:], p.LSN, s.seed)
	if err == nil {
		return u, dst, nil
	}
	// Asked after the bytes were read: a recycled file gets new contents only
	// after gone is set, so who has read such contents sees it.
	if s.gone.Load() {
		return Update{}, dst[:start], ErrGone
	}
	err = &CorruptError{File: segmentName(s.base), Offset: l.offset(s, p.LSN), LSN: p.LSN, Err: err}
	return Update{}, dst[:start], l.lost(s, p.LSN+LSN(p.Size), err)
}

// lost returns err, and for an update that the log's failure may have cost, as
// opposed to damage, the failure: the system shows what it could not write for
// as long as it pleases.
func (l *Log) lost(s *segment, end LSN, err error) error {
	f := l.failure.Load()
	if f == nil || s.recovered || end <= LSN(l.streams[s.stream].durable.Load()) || !errors.Is(err, ErrCorrupt) {
		return err
	}
	return fmt.Errorf("log: reading what was not durable: %w", f.err)
}

// readBuffer copies from the buffer that holds lsn. If there is none, the bytes
// were written to the file meanwhile, and found is false.
func (l *Log) readBuffer(lsn LSN, target []byte, s *segment) (found bool, err error) {
	for b := l.streams[s.stream].head.Load(); b != nil; b = b.next.Load() {
		if b.segment != s || lsn < b.base || lsn >= b.end() {
			continue
		}
		if lsn+LSN(len(target)) > b.end() {
			// No record goes on in the next buffer.
			return false, &CorruptError{File: segmentName(s.base), Offset: l.offset(s, lsn), LSN: lsn, Err: errNoRecord}
		}
		return b.read(lsn, target), nil
	}
	if s.gone.Load() {
		return false, ErrGone
	}
	if LSN(s.written.Load()) < lsn+LSN(len(target)) {
		if l.options.Discard {
			return false, ErrGone
		}
		if b := l.streams[s.stream].head.Load(); b.base > lsn || l.streams[s.stream].tail() <= lsn {
			if LSN(s.written.Load()) < lsn+LSN(len(target)) {
				return false, &CorruptError{File: segmentName(s.base), Offset: l.offset(s, lsn), LSN: lsn, Err: errNoRecord}
			}
		}
		spin()
	}
	return false, nil
}

// read copies from b unless its memory was given back, and reports which.
func (b *buffer) read(lsn LSN, target []byte) bool {
	if !b.slab.acquire() {
		return false
	}
	// Writers may still be at work elsewhere in the buffer, or at this very
	// record. While they keep coming, sealing ends it.
	for i := 0; writersOf(b.state.Load()) > 0; i++ {
		if i == 8 {
			b.seal()
		}
		spin()
	}
	yield(yieldRead)
	copy(target, b.data[lsn-b.base:])
	b.slab.release()
	return true
}

var errNoRecord = errors.New("no record was written here")

func (l *Log) readFile(s *segment, target []byte, off int64) error {
	h, err := l.openSegment(s)
	if err != nil {
		return err
	}
	n, err := h.file.ReadAt(target, off)
	if cerr := h.release(); err == nil {
		err = cerr
	}
	if n == len(target) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return &CorruptError{File: segmentName(s.base), Offset: off, LSN: s.base + LSN(off), Err: errShort}
	}
	return err
}

// readUpTo reads n bytes at off, or what there is.
func readUpTo(f vfs.File, n int, off int64) ([]byte, error) {
	p := make([]byte, n)
	k, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return p[:k], err
}
