package tree

import (
	"encoding/binary"

	"github.com/pulkdb/db/internal/invariant"
)

// A meta is what a node's header says beside the sizes. The fences are borrowed.
type meta struct {
	kind       byte
	level      int
	root       bool
	last       bool
	versioned  bool
	tree       uint32
	lo, hi     []byte
	right      PID
	generation uint64
	stamp      uint64
}

func (n node) meta() meta {
	return meta{
		kind: n.kind(), level: n.level(), root: n.isRoot(), last: n.isLast(), versioned: n.versioned(), tree: n.tree(),
		lo: n.lo(), hi: n.hi(), right: n.right(), generation: n.generation(), stamp: n.newest(),
	}
}

// A nodeWriter fills a node whose size is known, entry by entry.
type nodeWriter struct {
	n       node
	heads   []byte
	offsets []byte
	wide    bool
	at      int // where the next entry goes
	i       int // its index
}

// newWriter appends room for a node to dst and fills all but the entries, of
// which there are count with bytes in total.
func newWriter(dst []byte, m meta, prefix []byte, count, bytes int) ([]byte, nodeWriter) {
	size := headerBytes + pad8(len(prefix)) + 10*count + len(m.lo) + len(m.hi) + bytes
	wide := size > 1<<16
	if wide {
		size += 2 * count
	}
	start := len(dst)
	dst = grow(dst, size)
	n := node(dst[start : start+size : start+size])
	n.writeHeader(m, prefix, count, wide)
	w := nodeWriter{n: n, wide: wide, heads: n[n.headsAt():n.offsetsAt()], offsets: n[n.offsetsAt():n.loAt()], at: n.loAt()}
	w.at += copy(n[w.at:], m.lo)
	w.at += copy(n[w.at:], m.hi)
	return dst, w
}

// grow extends dst by size bytes of any content.
func grow(dst []byte, size int) []byte {
	if cap(dst)-len(dst) < size {
		larger := make([]byte, len(dst), max(len(dst)+size, 2*cap(dst)))
		copy(larger, dst)
		dst = larger
	}
	return dst[:len(dst)+size]
}

func (n node) writeHeader(m meta, prefix []byte, count int, wide bool) {
	clear(n[:headerBytes+pad8(len(prefix))])
	n[0] = m.kind
	n[1] = nodeFlag(m.root, nodeRoot) | nodeFlag(m.last, nodeLast) | nodeFlag(m.versioned, nodeVersioned) | nodeFlag(wide, nodeWide)
	n[2] = byte(m.level)
	le.PutUint32(n[4:], uint32(count))
	le.PutUint32(n[8:], uint32(len(n)))
	le.PutUint32(n[12:], uint32(len(prefix)))
	le.PutUint32(n[16:], uint32(len(m.lo)))
	le.PutUint32(n[20:], uint32(len(m.hi)))
	le.PutUint32(n[24:], m.tree)
	le.PutUint64(n[32:], uint64(m.right))
	hiHead := ^uint64(0)
	if !m.last {
		hiHead = headOf(m.hi)
	}
	le.PutUint64(n[40:], hiHead)
	le.PutUint64(n[48:], m.generation)
	le.PutUint64(n[56:], m.stamp)
	copy(n[headerBytes:], prefix)
}

func nodeFlag(set bool, flag byte) byte {
	if set {
		return flag
	}
	return 0
}

func (w *nodeWriter) putOffset(at int) {
	if w.wide {
		le.PutUint32(w.offsets[4*w.i:], uint32(at))
	} else {
		le.PutUint16(w.offsets[2*w.i:], uint16(at))
	}
}

// put writes one entry.
func (w *nodeWriter) put(head uint64, flags byte, suffix int, stamp uint64, tail, value []byte) {
	le.PutUint64(w.heads[8*w.i:], head)
	w.putOffset(w.at)
	w.i++
	b := w.n[w.at:]
	b[0] = flags
	at := 1 + binary.PutUvarint(b[1:], uint64(suffix))
	if flags&entryStamp != 0 {
		le.PutUint64(b[at:], stamp)
		at += 8
	}
	at += copy(b[at:], tail)
	at += copy(b[at:], value)
	w.at += at
}

// putRun copies entries [from, to) of src as they are.
// REQUIRES: src has the same prefix.
func (w *nodeWriter) putRun(src node, from, to int) {
	heads := src.headsAt()
	copy(w.heads[8*w.i:], src[heads+8*from:heads+8*to])
	start := src.offset(from)
	w.putOffsets(src, from, to, w.at-start)
	w.at += copy(w.n[w.at:], src[start:src.offset(to)])
	w.i += to - from
}

// putOffsets copies offsets, moved by shift.
func (w *nodeWriter) putOffsets(src node, from, to, shift int) {
	at := src.offsetsAt()
	if w.wide || src.flags()&nodeWide != 0 {
		i := w.i
		for k := from; k < to; k++ {
			w.putOffset(src.offset(k) + shift)
			w.i++
		}
		w.i = i
		return
	}
	in := src[at+2*from : at+2*to]
	out := w.offsets[2*w.i:]
	out = out[:len(in)]
	// Four at a time: the sums stay below 2^16, so no carry crosses over.
	four := uint64(uint16(shift)) * 0x0001000100010001
	const high = 0x8000800080008000
	for len(in) >= 8 && len(out) >= 8 {
		x := le.Uint64(in)
		sum := (x&^high + four&^high) ^ ((x ^ four) & high)
		le.PutUint64(out, sum)
		in, out = in[8:], out[8:]
	}
	for ; len(in) >= 2; in, out = in[2:], out[2:] {
		le.PutUint16(out, uint16(int(le.Uint16(in))+shift))
	}
}

func (w *nodeWriter) done() {
	invariant.Check(w.at == len(w.n) && w.i == w.n.count(), "tree: node has another size than planned")
}

// appendRange appends a node of src's entries [from, to) with m's header and
// fences, and with the first prefix bytes of the keys cut off. It is how a node is
// split and how its prefix changes.
//
// REQUIRES: all those keys have the first prefix bytes in common.
func appendRange(dst []byte, src node, from, to int, m meta, prefix int) []byte {
	m.versioned = src.versioned() && rangeVersioned(src, from, to)
	if prefix == src.prefixBytes() {
		dst, w := newWriter(dst, m, src.prefix(), to-from, src.offset(to)-src.offset(from))
		w.putRun(src, from, to)
		w.done()
		return dst
	}
	bytes := 0
	for i := from; i < to; i++ {
		e := src.entry(i)
		bytes += entryBytes(e.flags, e.suffixBytes+src.prefixBytes()-prefix, len(e.value))
	}
	var key []byte
	if from < to {
		key = src.appendKey(nil, from)
	}
	dst, w := newWriter(dst, m, key[:prefix], to-from, bytes)
	for i := from; i < to; i++ {
		e := src.entry(i)
		key = src.appendKey(key[:0], i)
		suffix := key[prefix:]
		w.put(headOf(suffix), e.flags, len(suffix), e.stamp, suffix[min(8, len(suffix)):], e.value)
	}
	w.done()
	return dst
}

func rangeVersioned(src node, from, to int) bool {
	for i := from; i < to; i++ {
		if src.entryFlags(i)&^entryIndirect != 0 {
			return true
		}
	}
	return false
}

// rangePrefix is the longest prefix of the keys of entries [from, to).
func rangePrefix(src node, from, to int) int {
	if from >= to {
		return 0
	}
	return commonPrefix(src.appendKey(nil, from), src.appendKey(nil, to-1))
}

// appendEmpty appends a node without entries.
func appendEmpty(dst []byte, m meta) []byte {
	dst, w := newWriter(dst, m, nil, 0, 0)
	w.done()
	return dst
}

// A separator is a child and the low end of what it covers.
type separator struct {
	key []byte
	pid PID
}

// appendInner appends an inner node of the children, sorted by key; the first
// one's key is the low fence.
func appendInner(dst []byte, m meta, children []separator) []byte {
	bytes := 0
	for _, s := range children {
		bytes += entryBytes(0, len(s.key), 8)
	}
	dst, w := newWriter(dst, m, nil, len(children), bytes)
	var value [8]byte
	for _, s := range children {
		le.PutUint64(value[:], uint64(s.pid))
		w.put(headOf(s.key), 0, len(s.key), 0, s.key[min(8, len(s.key)):], value[:])
	}
	w.done()
	return dst
}
