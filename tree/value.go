package tree

import (
	"encoding/binary"
	"fmt"

	"github.com/pulkdb/db/pagecache"
)

// A chunk list is the value of an entry that has entryIndirect: it names the
// pages that hold the parts of a large value.
//
//	total   bytes of the value, at least 1: a uvarint
//	part    bytes in each chunk but the last, which has what remains: a uvarint
//	chunks  per chunk: its PID's distance from the one before (a zigzag varint)
//	        and its page version (a uvarint)
//
// A chunk page is a base: kindChunk, then seven zeros, then the bytes.
//
// Example: 250 bytes in parts of 100, in pages 5, 6 and 9 at version 1, are
// fa01 64 0a01 0201 0601; TestChunkListExample fixes it.
const chunkHeaderBytes = 8

// chunkHeader is how a chunk page begins.
var chunkHeader = [chunkHeaderBytes]byte{kindChunk}

// A chunk names one chunk page as it was when it was written.
type chunk struct {
	pid     PID
	version uint64
}

// appendChunks appends a chunk list.
func appendChunks(dst []byte, total, part int, chunks []chunk) []byte {
	dst = binary.AppendUvarint(dst, uint64(total))
	dst = binary.AppendUvarint(dst, uint64(part))
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
	total int // bytes of the value
	part  int // bytes of each chunk but the last
	count int // of chunks that there should be
	rest  []byte
	last  PID
}

// readChunks returns what steps through the list's chunks.
func readChunks(list []byte) (r chunkReader, ok bool) {
	total, n := binary.Uvarint(list)
	if n <= 0 || total == 0 || total > MaxValueBytes {
		return r, false
	}
	part, k := binary.Uvarint(list[n:])
	if k <= 0 || part == 0 || part > MaxValueBytes {
		return r, false
	}
	count := (total + part - 1) / part
	return chunkReader{total: int(total), part: int(part), count: int(count), rest: list[n+k:]}, true
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
	r, ok := readChunks(list)
	count := 0
	for ; ok && len(r.rest) > 0; count++ {
		_, ok = r.next()
	}
	return ok && count == r.count
}

// chunkPages cuts value into chunk pages.
func (t *Tree) chunkPages(value []byte) [][]byte {
	count := (len(value) + t.chunkBytes - 1) / t.chunkBytes
	pages := make([][]byte, 0, count)
	memory := make([]byte, 0, len(value)+count*chunkHeaderBytes)
	for len(value) > 0 {
		n := min(len(value), t.chunkBytes)
		start := len(memory)
		memory = append(memory, chunkHeader[:]...)
		memory = append(memory, value[:n]...)
		pages = append(pages, memory[start:len(memory):len(memory)])
		value = value[n:]
	}
	return pages
}

// prepare allocates a's chunk pages in u and makes the delta that names them. It
// may be called again for another Update.
func (t *Tree) prepare(a *addition, u *pagecache.Update) error {
	if a.pages == nil {
		return nil
	}
	list, err := t.allocateChunks(u, a.total, a.pages)
	a.delta = appendOne(nil, kindLeafOne, entryIndirect, a.key, list)
	return err
}

// allocateChunks adds the pages to u and returns the chunk list.
func (t *Tree) allocateChunks(u *pagecache.Update, total int, pages [][]byte) ([]byte, error) {
	chunks := make([]chunk, 0, len(pages))
	for _, page := range pages {
		pid, err := u.Allocate(page)
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, chunk{pid, u.FreshVersion(pid)})
	}
	return appendChunks(nil, total, t.chunkBytes, chunks), nil
}

// appendChunked appends the value that the list names, chunk by chunk, each
// under a guard of its own. current is false if a chunk is gone: then the entry
// that had the list has been replaced since, and is to be looked up again. Out is
// of use only if current.
func (t *Tree) appendChunked(dst, list []byte) (out []byte, current bool, err error) {
	r, ok := readChunks(list)
	if !ok {
		return dst, false, fmt.Errorf("%w: list of chunks", ErrCorrupt)
	}
	start := len(dst)
	appendChunk := t.appendChunk
	if r.total > t.aroundMin {
		appendChunk = t.appendAround
	}
	for len(r.rest) > 0 {
		c, ok := r.next()
		if !ok {
			return dst[:start], false, fmt.Errorf("%w: list of chunks", ErrCorrupt)
		}
		want := min(r.part, r.total-(len(dst)-start))
		if need := r.total - (len(dst) - start) + chunkHeaderBytes; cap(dst)-len(dst) < need {
			dst = append(make([]byte, 0, len(dst)+need), dst...)
		}
		if dst, ok, err = appendChunk(dst, c, want); !ok || err != nil {
			return dst[:start], false, err
		}
	}
	if len(dst)-start != r.total {
		return dst[:start], false, fmt.Errorf("%w: value has %d bytes of %d", ErrCorrupt, len(dst)-start, r.total)
	}
	return dst, true, nil
}

// appendChunk appends one chunk, which has want bytes. current is false if it is
// gone.
func (t *Tree) appendChunk(dst []byte, c chunk, want int) (out []byte, current bool, err error) {
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
			if err := checkChunk(v.Base(), c, want); err != nil {
				return dst, false, err
			}
			return append(dst, v.Base()[chunkHeaderBytes:]...), true, nil
		}
		g.Unpin()
		if err := t.cache.Load(c.pid); err != nil {
			return dst, false, err
		}
	}
}

// appendAround is appendChunk that leaves the cache to others.
func (t *Tree) appendAround(dst []byte, c chunk, want int) (out []byte, current bool, err error) {
	start := len(dst)
	out, current, err = t.cache.AppendBase(dst, c.pid, c.version)
	if err != nil || !current {
		return dst, false, err
	}
	if err := checkChunk(out[start:], c, want); err != nil {
		return dst, false, err
	}
	copy(out[start:], out[start+chunkHeaderBytes:])
	return out[:len(out)-chunkHeaderBytes], true, nil
}

// checkChunk returns why the page is no chunk of want bytes.
func checkChunk(page []byte, c chunk, want int) error {
	if !isChunk(page) || len(page)-chunkHeaderBytes != want {
		return fmt.Errorf("%w: page %d is not a chunk of %d bytes", ErrCorrupt, c.pid, want)
	}
	return nil
}
