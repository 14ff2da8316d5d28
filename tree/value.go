package tree

import (
	"encoding/binary"
	"fmt"

	"github.com/pulkdb/db/pagecache"
)

// A chunk list is the value of an entry that has entryIndirect: it names the
// pages that hold the parts of a large value.
//
//	total   bytes of the value, a uvarint
//	chunks  per chunk: its PID's distance from the one before (a zigzag varint)
//	        and its page version (a uvarint)
//
// A chunk page is a base: kindChunk, then seven zeros, then the bytes.
const chunkHeaderBytes = 8

// A chunk names one chunk page as it was when it was written.
type chunk struct {
	pid     PID
	version uint64
}

// appendChunks appends a chunk list.
func appendChunks(dst []byte, total int, chunks []chunk) []byte {
	dst = binary.AppendUvarint(dst, uint64(total))
	var last PID
	for _, c := range chunks {
		dst = binary.AppendVarint(dst, int64(c.pid-last))
		dst = binary.AppendUvarint(dst, c.version)
		last = c.pid
	}
	return dst
}

// A chunkReader steps through a chunk list.
type chunkReader struct {
	rest []byte
	last PID
}

// readChunks returns the value's length and the list's chunks.
func readChunks(list []byte) (total int, r chunkReader, ok bool) {
	x, n := binary.Uvarint(list)
	if n <= 0 || x > MaxValueBytes {
		return 0, r, false
	}
	return int(x), chunkReader{rest: list[n:]}, true
}

// next returns the next chunk; ok is false at the end or if the list is
// malformed, which leaves bytes in rest.
func (r *chunkReader) next() (c chunk, ok bool) {
	delta, n := binary.Varint(r.rest)
	if n <= 0 {
		return c, false
	}
	version, k := binary.Uvarint(r.rest[n:])
	if k <= 0 {
		return c, false
	}
	r.last += PID(delta)
	r.rest = r.rest[n+k:]
	return chunk{r.last, version}, true
}

// validChunks reports whether list is a chunk list.
func validChunks(list []byte) bool {
	_, r, ok := readChunks(list)
	for ok && len(r.rest) > 0 {
		_, ok = r.next()
	}
	return ok
}

// chunkPages cuts value into chunk pages.
func (t *Tree) chunkPages(value []byte) [][]byte {
	count := (len(value) + t.chunkBytes - 1) / t.chunkBytes
	pages := make([][]byte, 0, count)
	memory := make([]byte, 0, len(value)+count*chunkHeaderBytes)
	for len(value) > 0 {
		n := min(len(value), t.chunkBytes)
		start := len(memory)
		memory = append(memory, kindChunk, 0, 0, 0, 0, 0, 0, 0)
		memory = append(memory, value[:n]...)
		pages = append(pages, memory[start:len(memory):len(memory)])
		value = value[n:]
	}
	return pages
}

// prepare allocates the chunk pages in u and makes the delta that names them. It
// may be called again for another Update.
func (a *addition) prepare(u *pagecache.Update) error {
	if a.pages == nil {
		return nil
	}
	list, err := allocateChunks(u, a.total, a.pages)
	a.delta = appendOne(nil, kindLeafOne, entryIndirect, a.key, list)
	return err
}

// allocateChunks adds the pages to u and returns the chunk list.
func allocateChunks(u *pagecache.Update, total int, pages [][]byte) ([]byte, error) {
	chunks := make([]chunk, 0, len(pages))
	for _, page := range pages {
		pid, err := u.Allocate(page)
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, chunk{pid, u.FreshVersion(pid)})
	}
	return appendChunks(nil, total, chunks), nil
}

// appendChunked appends the value that the list names, chunk by chunk, each
// under a guard of its own. current is false if a chunk is gone: then the entry
// that had the list has been replaced since, and is to be looked up again. Out is
// of use only if current.
func (t *Tree) appendChunked(dst, list []byte) (out []byte, current bool, err error) {
	total, r, ok := readChunks(list)
	if !ok {
		return dst, false, fmt.Errorf("%w: list of chunks", ErrCorrupt)
	}
	start := len(dst)
	for len(r.rest) > 0 {
		c, ok := r.next()
		if !ok {
			return dst[:start], false, fmt.Errorf("%w: list of chunks", ErrCorrupt)
		}
		if dst, ok, err = t.appendChunk(dst, c, total-(len(dst)-start)); !ok || err != nil {
			return dst[:start], false, err
		}
	}
	if len(dst)-start != total {
		return dst[:start], false, fmt.Errorf("%w: value has %d bytes of %d", ErrCorrupt, len(dst)-start, total)
	}
	return dst, true, nil
}

// appendChunk appends one chunk; rest is how much of the value is still missing.
func (t *Tree) appendChunk(dst []byte, c chunk, rest int) (out []byte, current bool, err error) {
	for {
		g := t.cache.Pin()
		v, err := t.cache.View(g, c.pid)
		switch {
		case err == pagecache.ErrGone || err == nil && v.Version() != c.version:
			g.Unpin()
			return dst, false, nil
		case err != nil:
			g.Unpin()
			return dst, false, err
		case v.Resident():
			defer g.Unpin()
			page := v.Base()
			if !isChunk(page) || len(page)-chunkHeaderBytes > rest {
				return dst, false, fmt.Errorf("%w: page %d is no chunk", ErrCorrupt, c.pid)
			}
			if need := len(dst) + rest; cap(dst) < need {
				dst = append(make([]byte, 0, need), dst...)
			}
			return append(dst, page[chunkHeaderBytes:]...), true, nil
		}
		g.Unpin()
		if err := t.cache.Load(c.pid); err != nil {
			return dst, false, err
		}
	}
}
