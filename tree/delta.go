package tree

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A delta is one fragment that changes a node, see format.go.
type delta []byte

// A change is one entry of a delta, borrowed from it. What Merge sorts.
type change struct {
	head  uint64 // of the key's suffix; set by the merge
	stamp uint64
	key   []byte
	value []byte
	seq   uint32 // of the fragment: the higher is the newer
	flags byte
}

// appendOne appends a delta of one change.
func appendOne(dst []byte, kind, flags byte, key, value []byte) []byte {
	dst = append(dst, kind)
	return appendChange(dst, flags, key, value)
}

func appendChange(dst []byte, flags byte, key, value []byte) []byte {
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(len(key)))
	dst = append(dst, key...)
	return append(dst, value...)
}

func changeBytes(key, value []byte) int {
	return 1 + uvarintBytes(len(key)) + len(key) + len(value)
}

// appendRun appends a delta of the changes, which are sorted by key and unique.
func appendRun(dst []byte, kind byte, changes []change) []byte {
	size := runHeaderBytes
	for i := range changes {
		size += 2 + changeBytes(changes[i].key, changes[i].value)
	}
	wide := size > 1<<16
	width := 2
	if wide {
		width = 4
	}
	start := len(dst)
	var header [runHeaderBytes]byte
	header[0] = kind
	if wide {
		header[1] = nodeWide
	}
	le.PutUint32(header[4:], uint32(len(changes)))
	dst = append(dst, header[:]...)
	at := runHeaderBytes + width*len(changes)
	for i := range changes {
		if wide {
			dst = le.AppendUint32(dst, uint32(at))
		} else {
			dst = le.AppendUint16(dst, uint16(at))
		}
		at += changeBytes(changes[i].key, changes[i].value)
	}
	for i := range changes {
		dst = appendChange(dst, changes[i].flags, changes[i].key, changes[i].value)
	}
	if len(dst)-start != at {
		panic("tree: run has another size than computed")
	}
	return dst
}

func (d delta) isRun() bool   { return d[0] == kindLeafRun || d[0] == kindInnerRun }
func (d delta) isErase() bool { return d[0] == kindLeafErase }
func (d delta) isInner() bool { return d[0] == kindInnerOne || d[0] == kindInnerRun }

// asDelta checks in constant time that the arrays lie within b.
func asDelta(b []byte) (delta, error) {
	if len(b) < 3 || (b[0] < kindLeafOne || b[0] > kindInnerRun) && b[0] != kindLeafErase {
		return nil, fmt.Errorf("%w: not a delta", ErrCorrupt)
	}
	d := delta(b)
	if d.isRun() && (len(b) < runHeaderBytes || d.count() > len(b)/2 ||
		runHeaderBytes+d.count()*d.offsetBytes() > len(b)) {
		return nil, fmt.Errorf("%w: delta too short", ErrCorrupt)
	}
	return d, nil
}

// count is the number of changes; 0 if the delta erases a range.
func (d delta) count() int {
	switch {
	case d.isRun():
		return int(le.Uint32(d[4:]))
	case d.isErase():
		return 0
	}
	return 1
}

func (d delta) offsetBytes() int {
	if d[1]&nodeWide != 0 {
		return 4
	}
	return 2
}

// at returns change i. REQUIRES: 0 <= i < count.
func (d delta) at(i int) (c change, ok bool) {
	if !d.isRun() {
		return decodeChange(d[1:])
	}
	from, to := d.offset(i), len(d)
	if i+1 < d.count() {
		to = d.offset(i + 1)
	}
	if from > to || to > len(d) {
		return c, false
	}
	return decodeChange(d[from:to])
}

func (d delta) offset(i int) int {
	if d[1]&nodeWide != 0 {
		return int(le.Uint32(d[runHeaderBytes+4*i:]))
	}
	return int(le.Uint16(d[runHeaderBytes+2*i:]))
}

func decodeChange(b []byte) (c change, ok bool) {
	if len(b) < 2 {
		return c, false
	}
	n, size := uvarint(b[1:])
	at := 1 + size
	if size == 0 || len(b) < at+n {
		return c, false
	}
	c.flags = b[0]
	c.key = b[at : at+n : at+n]
	c.value = b[at+n:]
	return c, true
}

// search returns the first change whose key is at least key, and whether it is
// equal; count if there is none. ok is false if the delta is malformed.
func (d delta) search(key []byte) (i int, equal, ok bool) {
	lo, hi := 0, d.count()
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		c, ok := d.at(mid)
		if !ok {
			return 0, false, false
		}
		switch bytes.Compare(c.key, key) {
		case 0:
			return mid, true, true
		case -1:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false, true
}

// find returns the change of key, if the delta has one. It does not tell whether
// the delta erases it.
func (d delta) find(key []byte) (c change, found, ok bool) {
	if !d.isRun() {
		if d.isErase() {
			return c, false, true
		}
		c, ok = decodeChange(d[1:])
		return c, ok && string(c.key) == string(key), ok
	}
	i, equal, ok := d.search(key)
	if !equal {
		return change{}, false, ok
	}
	c, ok = d.at(i)
	return c, ok, ok
}

// floor returns the last change whose key is at most key, or below it if
// strict.
func (d delta) floor(key []byte, strict bool) (c change, found bool) {
	i, equal, ok := d.search(key)
	if !ok {
		return change{}, false
	}
	if !equal || strict {
		i--
	}
	if i < 0 {
		return change{}, false
	}
	return d.at(i)
}

// validate checks the delta completely. It never panics.
func (d delta) validate() error {
	d, err := asDelta(d)
	if err != nil {
		return err
	}
	if d.isErase() {
		_, err := decodeErase(d)
		return err
	}
	if d.isRun() && (d[1]&^nodeWide != 0 || d[2] != 0 || d[3] != 0 || d.count() == 0) {
		return fmt.Errorf("%w: header of a run", ErrCorrupt)
	}
	if d.isRun() && d.offset(0) != runHeaderBytes+d.count()*d.offsetBytes() {
		return fmt.Errorf("%w: offsets of a run", ErrCorrupt)
	}
	var last []byte
	for i := range d.count() {
		c, ok := d.at(i)
		switch {
		case !ok || len(c.key) > MaxKeyBytes || c.flags&^changeFlags != 0:
			return fmt.Errorf("%w: change %d is malformed", ErrCorrupt, i)
		case i > 0 && bytes.Compare(last, c.key) >= 0:
			return fmt.Errorf("%w: change %d is out of order", ErrCorrupt, i)
		case d.isInner() && (c.flags != 0 || childOf(c.value) == 0):
			return fmt.Errorf("%w: change %d is no separator", ErrCorrupt, i)
		case c.flags&entryTombstone != 0 && (c.flags != entryTombstone || len(c.value) != 0):
			return fmt.Errorf("%w: change %d is a tombstone with a value", ErrCorrupt, i)
		case !validValue(c.flags, c.value):
			return fmt.Errorf("%w: change %d: chunks or operands", ErrCorrupt, i)
		}
		last = c.key
	}
	return nil
}

// String lists the changes.
func (d delta) String() string {
	if _, err := asDelta(d); err != nil {
		return err.Error()
	}
	if d.isErase() {
		e, err := decodeErase(d)
		if err != nil {
			return err.Error()
		}
		return e.String()
	}
	var b bytes.Buffer
	for i := range d.count() {
		c, _ := d.at(i)
		fmt.Fprintf(&b, "%q flags %#x: %q\n", c.key, c.flags, c.value)
	}
	return b.String()
}

// hintOf is what a reader compares before it looks into a delta: 16 bits of a
// hash of the key, never 0. A run and an erasure have hint 0, which fits every
// key.
func hintOf(key []byte) uint16 {
	const m = 0x9e3779b97f4a7c15
	h := uint64(len(key)) * m
	for len(key) >= 8 {
		h = (h ^ le.Uint64(key)) * m
		h ^= h >> 29
		key = key[8:]
	}
	if len(key) > 0 {
		h = (h ^ headOf(key)) * m
	}
	return uint16(h>>48) | 1
}
