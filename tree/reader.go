package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// A ValueReader reads one value as it was at the moment it was asked for, whatever
// is written meanwhile. Of a value with pages of its own it holds two parts in
// memory, the one being read and, while it is read in order, the next. It costs
// that and, like any moment, the versions that it keeps; close it.
//
// Read, Seek and WriteTo are for one goroutine at a time; ReadAt, Size and Close
// for any number.
type ValueReader struct {
	// Immutable.
	t      *Tree
	moment Moment // open until closed, unless whole
	size   int64
	whole  []byte // the value, if it has no pages of its own
	part   int    // bytes in each chunk but the last
	chunks []chunk

	// Atomic.
	closed atomic.Bool

	// Owned by who reads.
	offset int64

	mu    sync.Mutex
	held  held      // Guarded by mu. The part that was read last.
	next  chan held // Guarded by mu. Not nil: the part that is being read ahead comes here, once.
	spare *[]byte   // Guarded by mu. A buffer.
}

// A held is a part in memory.
type held struct {
	index  int // of the chunk
	buffer *[]byte
	data   []byte // within buffer; nil: there is none
	err    error  // why it could not be read
}

// GetReader returns a reader of key's value as it is now. Errors: ErrNotFound, and
// those of GetTo.
func (t *Tree) GetReader(key []byte) (*ValueReader, error) {
	if err := t.readable(); err != nil {
		return nil, err
	}
	return t.newReader(t.openMoment(), key)
}

// GetReaderAt is GetReader as of a moment. The reader may be used after m is
// closed.
func (t *Tree) GetReaderAt(m *Moment, key []byte) (*ValueReader, error) {
	if err := t.readable(); err != nil {
		return nil, err
	}
	return t.newReader(m.reopen(), key)
}

// NewValueReader returns a reader of a value that the caller has and will not
// change.
func NewValueReader(value []byte) *ValueReader {
	return &ValueReader{size: int64(len(value)), whole: value}
}

// newReader takes over the moment.
func (t *Tree) newReader(m Moment, key []byte) (r *ValueReader, err error) {
	defer func() {
		if r == nil || r.chunks == nil {
			m.Close()
		}
	}()
	list, err := t.chunksAt(m.Stamp(), key)
	if err != nil {
		return nil, err
	}
	if list == nil {
		value, err := t.getAt(m.Stamp(), nil, key)
		if err != nil {
			return nil, err
		}
		return NewValueReader(value), nil
	}
	c, ok := readChunks(list)
	r = &ValueReader{t: t, moment: m, size: int64(c.total), part: c.part}
	for ok && len(c.rest) > 0 {
		var x chunk
		x, ok = c.next()
		r.chunks = append(r.chunks, x)
	}
	if !ok || len(r.chunks) != c.count {
		return nil, fmt.Errorf("%w: list of chunks", ErrCorrupt)
	}
	return r, nil
}

// chunksAt returns a copy of the chunk list that key has at a moment; nil if its
// value has no pages of its own, or operands.
func (t *Tree) chunksAt(moment uint64, key []byte) ([]byte, error) {
	s := seek{key: key}
	g, p, err := t.locate(0, &s, 0)
	if err != nil {
		return nil, err
	}
	defer g.Unpin()
	f, err := lookup(&p, key, moment)
	switch {
	case err != nil || !f.ok:
		return nil, notFound(err)
	case f.flags&(entryIndirect|entryOperand) == entryIndirect:
		return bytes.Clone(f.value), nil
	}
	return nil, nil
}

// Size is the length of the value.
func (r *ValueReader) Size() int64 { return r.size }

// Close gives up the moment and waits for what is being read ahead. A second Close
// is harmless. Reads that come later fail with ErrClosed.
func (r *ValueReader) Close() error {
	if r.closed.Swap(true) || r.chunks == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != nil {
		r.drop((<-r.next).buffer)
		r.next = nil
	}
	r.drop(r.held.buffer)
	r.drop(r.spare)
	r.held, r.spare = held{}, nil
	r.moment.Close()
	return nil
}

func (r *ValueReader) drop(b *[]byte) {
	if b != nil {
		r.t.parts.Put(b)
	}
}

// Read reads on. At the end of the value it returns io.EOF. Errors: ErrClosed,
// ErrCorrupt, what reading a page failed with.
func (r *ValueReader) Read(p []byte) (int, error) {
	n, err := r.readAt(p, r.offset)
	r.offset += int64(n)
	return n, err
}

// ReadAt reads len(p) bytes from off on, or up to the end of the value, with io.EOF
// then.
func (r *ValueReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("tree: negative offset")
	}
	done := 0
	for {
		n, err := r.readAt(p[done:], off+int64(done))
		if done += n; err != nil || done == len(p) {
			return done, err
		}
	}
}

// readAt reads some bytes at off: of one part.
func (r *ValueReader) readAt(p []byte, off int64) (int, error) {
	switch {
	case r.closed.Load():
		return 0, ErrClosed
	case off >= r.size:
		return 0, io.EOF
	case r.chunks == nil:
		return copy(p, r.whole[off:]), nil
	case len(p) == 0:
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	data, err := r.hold(int(off / int64(r.part)))
	if err != nil {
		return 0, err
	}
	return copy(p, data[off%int64(r.part):]), nil
}

// Seek sets where Read goes on, as io.Seeker says. Behind the end there is nothing
// to read.
func (r *ValueReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.size
	default:
		return r.offset, fmt.Errorf("tree: seek: whence is %d", whence)
	}
	if offset < 0 {
		return r.offset, errors.New("tree: seek: negative offset")
	}
	r.offset = offset
	return offset, nil
}

// WriteTo writes what is left of the value to w.
func (r *ValueReader) WriteTo(w io.Writer) (written int64, err error) {
	b := &[]byte{}
	if r.chunks != nil {
		b = r.t.getPart(r.part)
		defer r.t.parts.Put(b)
	}
	for {
		part := *b
		if r.closed.Load() {
			return written, ErrClosed
		}
		if r.chunks == nil && r.offset < r.size {
			part = r.whole[r.offset:]
		} else if n, err := r.readAt(part, r.offset); err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		} else {
			part = part[:n]
		}
		n, err := w.Write(part)
		written += int64(n)
		r.offset += int64(n)
		if err == nil && n < len(part) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// hold returns part i. After the part before it, or the first, the one behind it is
// read ahead.
//
// REQUIRES: the caller holds mu.
func (r *ValueReader) hold(i int) ([]byte, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	if r.held.data != nil && r.held.index == i {
		return r.held.data, nil
	}
	inOrder := i == 0 || r.held.data != nil && r.held.index == i-1
	var now held
	if r.next != nil {
		now, r.next = <-r.next, nil
	}
	if now.data == nil || now.index != i || now.err != nil {
		b := now.buffer
		if b == nil {
			b = r.buffer()
		}
		now = r.load(i, b)
	}
	r.giveBack(r.held.buffer)
	r.held = now
	if now.err != nil {
		err := now.err
		r.giveBack(now.buffer)
		r.held = held{}
		return nil, err
	}
	if inOrder && i+1 < len(r.chunks) {
		r.readAhead(i + 1)
	}
	return now.data, nil
}

func (r *ValueReader) readAhead(i int) {
	next, b := make(chan held, 1), r.buffer()
	if r.t.ahead.run(func() { next <- r.load(i, b) }) {
		r.next = next
	} else {
		r.giveBack(b)
	}
}

func (r *ValueReader) buffer() *[]byte {
	if b := r.spare; b != nil {
		r.spare = nil
		return b
	}
	return r.t.getPart(r.part)
}

func (r *ValueReader) giveBack(b *[]byte) {
	if r.spare == nil {
		r.spare = b
	} else {
		r.drop(b)
	}
}

// load reads part i into b.
func (r *ValueReader) load(i int, b *[]byte) held {
	want := r.part
	if i == len(r.chunks)-1 {
		want = int(r.size - int64(i)*int64(r.part))
	}
	data, current, err := r.t.appendAround((*b)[:0], r.chunks[i], want)
	switch {
	case err == nil && !current && (r.closed.Load() || r.t.closed.Load()):
		err = ErrClosed
	case err == nil && !current:
		err = fmt.Errorf("%w: chunk %d of a value is gone", ErrCorrupt, i)
	}
	if cap(data) > cap(*b) {
		*b = data[:cap(data)]
	}
	return held{index: i, buffer: b, data: data, err: err}
}
