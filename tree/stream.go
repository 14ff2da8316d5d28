package tree

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// How a large value is cut.
const (
	// streamChunks: a value of more chunks than that is streamed; a shorter one is
	// written in one record, or group.
	streamChunks = 8

	// streamPartsMax is how many parts a streamed value has at most, unless they
	// would get too large: the list of them is part of a leaf.
	streamPartsMax = 1024

	// aroundShare: the chunks of a value that is longer than this share of the cache
	// are read around it. Those of streamed values are written around it.
	aroundShare = 256
)

// SetFrom gives key a value of size bytes, which it reads from r: exactly so many.
// Of a long value it holds one part at a time in memory. The value appears, and
// survives a crash, whole or not at all; meanwhile the key keeps what it has. The
// linearization point is the compare-and-swap of the leaf's slot, after the last
// byte was read. Errors: those of Set and of r; io.ErrUnexpectedEOF, wrapped, if r
// ends before.
func (t *Tree) SetFrom(key []byte, r io.Reader, size int64) error {
	if size < 0 || size > MaxValueBytes {
		return fmt.Errorf("%w: value of %d bytes", ErrTooLarge, size)
	}
	if err := t.writable(key, nil); err != nil {
		return err
	}
	if size > int64(t.streamMin) {
		_, err := t.stream(&addition{key: key, hint: hintOf(key)}, r, int(size))
		return err
	}
	b := t.getPart(int(size))
	defer t.parts.Put(b)
	value := (*b)[:size]
	if err := readPart(r, value, 0, int(size)); err != nil {
		return err
	}
	return t.Set(key, value)
}

// stream writes a value part by part as a draft and ends it with a.
func (t *Tree) stream(a *addition, r io.Reader, size int) (done bool, err error) {
	d, err := t.beginDraft()
	if err != nil {
		return false, err
	}
	ended := false
	defer func() {
		if !ended { // r may have panicked
			if failed := d.abandon(); failed != nil {
				err = errors.Join(err, fmt.Errorf("tree: the parts are freed when the store is opened again: %w", failed))
			}
		}
	}()
	part := t.partBytes(size)
	if err := t.writeParts(d, r, size, part); err != nil {
		return false, err
	}
	a.delta = appendOne(nil, kindLeafOne, entryIndirect, a.key, appendChunks(nil, size, part, d.chunks))
	a.draft = d
	lsn, done, err := t.addOwned(a, 0)
	if err != nil || !done {
		return false, err
	}
	ended = true
	err = t.wait(lsn)
	d.shed = slices.DeleteFunc(d.shed, t.cache.Shed)
	return true, err
}

// partBytes is how many bytes each part of a streamed value has but the last. Two
// of the largest fit a buffer of the log.
func (t *Tree) partBytes(size int) int {
	part := max(t.chunkBytes, (size+streamPartsMax-1)/streamPartsMax)
	return max(1, min(part, t.cache.MaxFragment()/2-chunkHeaderBytes-64))
}

func (t *Tree) writeParts(d *draft, r io.Reader, size, part int) error {
	b := t.getPart(part)
	defer t.parts.Put(b)
	for done := 0; done < size; {
		page := (*b)[:chunkHeaderBytes+min(part, size-done)]
		copy(page, chunkHeader[:])
		if err := readPart(r, page[chunkHeaderBytes:], done, size); err != nil {
			return err
		}
		if err := t.cache.Throttle(); err != nil {
			return err
		}
		if err := d.add(page); err != nil {
			return err
		}
		done += len(page) - chunkHeaderBytes
	}
	return nil
}

// readPart fills p from r, which has given done of size bytes before.
func readPart(r io.Reader, p []byte, done, size int) error {
	n, err := io.ReadFull(r, p)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return fmt.Errorf("tree: the value has %d bytes of %d: %w", done+n, size, io.ErrUnexpectedEOF)
	case err != nil:
		return fmt.Errorf("tree: reading the value: %w", err)
	}
	return nil
}

// getPart returns a buffer for a chunk page with n bytes; give it back to t.parts.
func (t *Tree) getPart(n int) *[]byte {
	b := t.parts.Get().(*[]byte)
	if cap(*b) < n+chunkHeaderBytes {
		*b = make([]byte, n+chunkHeaderBytes)
	}
	*b = (*b)[:cap(*b)]
	return b
}

// replacesLarge reports whether the newest version of a's key in the leaf is a streamed
// value, or both are large: who replaces such a value has its leaf consolidated at once,
// so that its space comes back. A leaf with a share of largeNodes to the value costs
// little to write beside it; deltas that are not merged would each hold a value more.
// A store without streamed values looks only for large ones.
func (t *Tree) replacesLarge(p *place, a *addition) bool {
	least := t.streamMin + 1
	if a.pages != nil || a.draft != nil {
		least = min(least, largeNodes*t.options.MaxNodeBytes)
	} else if t.drafts.page.Load() == 0 {
		return false
	}
	f, err := lookup(p, a.key, newestMoment)
	if err != nil || !f.ok || f.flags&(entryIndirect|entryOperand) != entryIndirect {
		return false
	}
	r, ok := readChunks(f.value)
	return ok && r.total >= least
}

// largeNodes is how many nodes a value has at least that is dropped as soon as it is
// replaced.
const largeNodes = 8

// dropReplaced consolidates a leaf that holds a large value which was replaced,
// or may do so: its chunks are freed, unless a moment sees them.
func (t *Tree) dropReplaced(pid PID) {
	err := t.cache.Load(pid)
	if err == nil {
		g := t.cache.Pin()
		err = t.cache.Consolidate(g, pid, false)
		g.Unpin()
	}
	if err == nil {
		err = t.tryTend(pid)
	}
	if err != nil {
		t.metrics.tendErrors.Add(1)
	}
}

// ahead counts the goroutines that read ahead, for Close to join.
type ahead struct {
	mu     sync.Mutex
	closed bool // Guarded by mu.
	wg     sync.WaitGroup
}

// run calls f in a goroutine, unless the store is being closed.
func (a *ahead) run(f func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.wg.Go(f)
	return true
}

func (a *ahead) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wg.Wait()
}
