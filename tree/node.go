package tree

import (
	"bytes"
	"fmt"

	"github.com/pulkdb/db/pagecache"
)

// A node is the base of a leaf or inner page, see format.go. It is borrowed
// from the page cache or private; it is never changed.
type node []byte

// asNode returns b as a node after checking in constant time that the arrays
// lie within it; validate checks the rest. Checksums below guard against
// damage; this guards the searches, which trust the count.
func asNode(b []byte) (node, error) {
	if len(b) < headerBytes || (b[0] != kindLeaf && b[0] != kindInner) {
		return nil, fmt.Errorf("%w: not a node", ErrCorrupt)
	}
	n := node(b)
	if n.sizeField() != len(b) || n.loAt() > len(b) {
		return nil, fmt.Errorf("%w: node of %d bytes says %d, arrays to %d", ErrCorrupt, len(b), n.sizeField(), n.loAt())
	}
	return n, nil
}

func (n node) kind() byte         { return n[0] }
func (n node) flags() byte        { return n[1] }
func (n node) level() int         { return int(n[2]) }
func (n node) count() int         { return int(le.Uint32(n[4:])) }
func (n node) sizeField() int     { return int(le.Uint32(n[8:])) }
func (n node) prefixBytes() int   { return int(le.Uint32(n[12:])) }
func (n node) loBytes() int       { return int(le.Uint32(n[16:])) }
func (n node) hiBytes() int       { return int(le.Uint32(n[20:])) }
func (n node) tree() uint32       { return le.Uint32(n[24:]) }
func (n node) right() PID         { return PID(le.Uint64(n[32:])) }
func (n node) hiHead() uint64     { return le.Uint64(n[40:]) }
func (n node) generation() uint64 { return le.Uint64(n[48:]) }
func (n node) newest() uint64     { return le.Uint64(n[56:]) }

func (n node) isLeaf() bool    { return n[0] == kindLeaf }
func (n node) isRoot() bool    { return n[1]&nodeRoot != 0 }
func (n node) isLast() bool    { return n[1]&nodeLast != 0 }
func (n node) versioned() bool { return n[1]&nodeVersioned != 0 }

func (n node) prefix() []byte { return n[headerBytes : headerBytes+n.prefixBytes()] }
func (n node) headsAt() int   { return headerBytes + pad8(n.prefixBytes()) }
func (n node) offsetsAt() int { return n.headsAt() + 8*n.count() }
func (n node) loAt() int      { return n.offsetsAt() + n.count()*n.offsetBytes() }

func (n node) offsetBytes() int {
	if n[1]&nodeWide != 0 {
		return 4
	}
	return 2
}

// lo and hi are the fences; hi is nil for +infinity.
func (n node) lo() []byte {
	at := n.loAt()
	return n[at : at+n.loBytes()]
}

func (n node) hi() []byte {
	if n.isLast() {
		return nil
	}
	at := n.loAt() + n.loBytes()
	return n[at : at+n.hiBytes()]
}

func (n node) head(i int) uint64 { return le.Uint64(n[n.headsAt()+8*i:]) }

// offset is where entry i starts; offset(count) is the end of the node.
func (n node) offset(i int) int {
	if i == n.count() {
		return len(n)
	}
	if n[1]&nodeWide != 0 {
		return int(le.Uint32(n[n.offsetsAt()+4*i:]))
	}
	return int(le.Uint16(n[n.offsetsAt()+2*i:]))
}

// An entry is one version of a key, borrowed from its node.
type entry struct {
	flags       byte
	suffixBytes int
	stamp       uint64
	tail        []byte
	value       []byte
}

// decodeEntry splits b, which is one entry. The tail's length follows from the
// suffix's.
func decodeEntry(b []byte) (e entry, ok bool) {
	if len(b) < 2 {
		return e, false
	}
	e.flags = b[0]
	n, size := uvarint(b[1:])
	at := 1 + size
	e.suffixBytes = n
	if e.flags&entryStamp != 0 {
		if len(b) < at+8 {
			return e, false
		}
		e.stamp = le.Uint64(b[at:])
		at += 8
	}
	tail := max(n-8, 0)
	if size == 0 || len(b) < at+tail {
		return e, false
	}
	e.tail = b[at : at+tail : at+tail]
	e.value = b[at+tail:]
	return e, true
}

// entry returns entry i. REQUIRES: 0 <= i < count.
func (n node) entry(i int) entry {
	e, _ := decodeEntry(n[n.offset(i):n.offset(i+1)])
	return e
}

func (n node) entryFlags(i int) byte { return n[n.offset(i)] }

// appendKey appends the whole key of entry i.
func (n node) appendKey(dst []byte, i int) []byte {
	e := n.entry(i)
	dst = append(dst, n.prefix()...)
	dst = appendHead(dst, n.head(i), min(e.suffixBytes, 8))
	return append(dst, e.tail...)
}

// child is the PID that entry i of an inner node holds. An inner entry has at
// least innerEntryMin bytes, so if all together have no more than that each, where
// entry i lies needs no look at the offsets, which saves a cache miss: separators
// are short, and mostly this is so.
func (n node) child(i int) PID {
	if at := n.loAt() + n.loBytes() + n.hiBytes(); len(n)-at == n.count()*innerEntryMin {
		at += i * innerEntryMin
		return PID(le.Uint64(n[at+innerEntryMin-8 : at+innerEntryMin]))
	}
	return childOf(n.entry(i).value)
}

// innerEntryMin is an entry with a key that its head holds whole: flags, the key's
// length, the PID.
const innerEntryMin = 1 + 1 + 8

func childOf(value []byte) PID {
	if len(value) != 8 {
		return 0
	}
	return PID(le.Uint64(value))
}

// contains reports whether key lies within the fences.
func (n node) contains(key []byte) bool {
	return bytes.Compare(n.lo(), key) <= 0 && !n.beyond(key)
}

// beyond reports whether key is at or above the high fence. It looks at the
// header alone unless the heads tie.
func (n node) beyond(key []byte) bool {
	h, x := n.hiHead(), headOf(key)
	if x < h || n.isLast() {
		return false
	}
	return x > h || bytes.Compare(key, n.hi()) >= 0
}

// validate checks the node completely: layout, order, fences, flags, children.
// It never panics.
func (n node) validate() error {
	n, err := asNode(n)
	if err != nil {
		return err
	}
	if err := n.validateHeader(); err != nil {
		return err
	}
	at := n.loAt() + n.loBytes() + n.hiBytes()
	versioned := false
	var last, key []byte
	for i := range n.count() {
		end := len(n)
		if i+1 < n.count() {
			end = n.offset(i + 1)
		}
		if n.offset(i) != at || end < at || end > len(n) {
			return fmt.Errorf("%w: entry %d at %d..%d, expected at %d", ErrCorrupt, i, n.offset(i), end, at)
		}
		e, ok := decodeEntry(n[at:end])
		if !ok || !n.validEntry(i, e) {
			return fmt.Errorf("%w: entry %d is malformed", ErrCorrupt, i)
		}
		last, key = key, n.appendKey(last[:0], i)
		if len(key) > MaxKeyBytes || !n.contains(key) || !inOrder(i, e, last, key) {
			return fmt.Errorf("%w: entry %d: key out of order, out of its fences or too long", ErrCorrupt, i)
		}
		versioned = versioned || e.flags&^entryIndirect != 0
		at = end
	}
	if at != len(n) || versioned != n.versioned() {
		return fmt.Errorf("%w: entries end at %d of %d", ErrCorrupt, at, len(n))
	}
	return n.validateOrder()
}

// inOrder reports whether key may follow last: above it, or equal and flagged
// as an older version.
func inOrder(i int, e entry, last, key []byte) bool {
	if i == 0 {
		return e.flags&entryOlder == 0
	}
	c := bytes.Compare(last, key)
	return c < 0 && e.flags&entryOlder == 0 || c == 0 && e.flags&entryOlder != 0
}

func (n node) validateHeader() error {
	lo, hi, prefix := n.loBytes(), n.hiBytes(), n.prefixBytes()
	switch {
	case n.flags()&^nodeFlags != 0, n[3] != 0, le.Uint32(n[28:]) != 0, le.Uint64(n[64:]) != 0:
		return fmt.Errorf("%w: unknown flags in a node's header", ErrCorrupt)
	case n.isLeaf() != (n.level() == 0):
		return fmt.Errorf("%w: kind %d at level %d", ErrCorrupt, n.kind(), n.level())
	case lo > MaxKeyBytes || hi > MaxKeyBytes || prefix > MaxKeyBytes || n.loAt()+lo+hi > len(n):
		return fmt.Errorf("%w: fences or prefix too long", ErrCorrupt)
	case n.isLast() != (n.right() == 0) || n.isLast() && (hi != 0 || n.hiHead() != ^uint64(0)):
		return fmt.Errorf("%w: last node and right sibling disagree", ErrCorrupt)
	case !n.isLast() && (n.hiHead() != headOf(n.hi()) || bytes.Compare(n.lo(), n.hi()) >= 0):
		return fmt.Errorf("%w: fences out of order", ErrCorrupt)
	case n.isRoot() != (n.generation() != 0):
		return fmt.Errorf("%w: generation %d", ErrCorrupt, n.generation())
	case !n.isLeaf() && (n.count() == 0 || n.versioned()):
		return fmt.Errorf("%w: inner node without children or with versions", ErrCorrupt)
	}
	for _, c := range n[headerBytes+prefix : n.headsAt()] {
		if c != 0 {
			return fmt.Errorf("%w: padding is not zero", ErrCorrupt)
		}
	}
	return nil
}

// validEntry checks what does not depend on the neighbours.
func (n node) validEntry(i int, e entry) bool {
	if e.flags&^entryFlags != 0 {
		return false
	}
	if e.suffixBytes < 8 && n.head(i)<<(8*uint(e.suffixBytes)) != 0 {
		return false
	}
	if !n.isLeaf() {
		return e.flags == 0 && childOf(e.value) != 0
	}
	if e.flags&entryTombstone != 0 {
		return e.flags&(entryIndirect|entryOperand) == 0 && len(e.value) == 0
	}
	return validValue(e.flags, e.value)
}

// validValue checks the value of a version that is no tombstone.
func validValue(flags byte, value []byte) bool {
	switch flags & (entryIndirect | entryOperand) {
	case 0:
		return true
	case entryIndirect:
		return validChunks(value)
	case entryOperand:
		return validOperands(value)
	}
	return false
}

// validateOrder checks the stamps of versions, and an inner node's first key.
func (n node) validateOrder() error {
	if !n.isLeaf() {
		if !bytes.Equal(n.appendKey(nil, 0), n.lo()) {
			return fmt.Errorf("%w: first separator is not the low fence", ErrCorrupt)
		}
		return nil
	}
	var newer uint64
	for i := range n.count() {
		e := n.entry(i)
		if e.stamp > n.newest() || e.flags&entryOlder != 0 && e.stamp > newer {
			return fmt.Errorf("%w: entry %d: stamp out of order", ErrCorrupt, i)
		}
		newer = e.stamp
	}
	return nil
}

// String describes the node for tests and the inspection command.
func (n node) String() string {
	if _, err := asNode(n); err != nil {
		return err.Error()
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "level %d, %d entries, %d bytes, [%q, %q), right %d, flags %#x, generation %d, newest %d\n",
		n.level(), n.count(), len(n), n.lo(), n.hi(), n.right(), n.flags(), n.generation(), n.newest())
	for i := range n.count() {
		e := n.entry(i)
		if n.isLeaf() {
			fmt.Fprintf(&b, "  %q @%d flags %#x: %q\n", n.appendKey(nil, i), e.stamp, e.flags, e.value)
		} else {
			fmt.Fprintf(&b, "  %q -> %d\n", n.appendKey(nil, i), childOf(e.value))
		}
	}
	return b.String()
}

// PID names a page.
type PID = pagecache.PID
