package tree

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// A delta of kind kindLeafErase deletes, at its stamp, every key that its leaf
// has in a range. Deltas above it are newer.
//
//	Offset  Size  Field   Meaning
//	     0     1  kind    kindLeafErase
//	     1     1  flags   eraseLoOpen, eraseHiOpen; other bits are refused
//	     2   1-3  size    bytes of lo, a uvarint; 0 if eraseLoOpen
//	              lo      the first key
//	              hi      the key after the last, to the end of the delta; none if
//	                      eraseHiOpen
//
// An open end is the leaf's fence. A range with both ends has lo < hi, so none is
// empty. Example: the deletion of ["a", "c") is 09 00 01 61 63;
// TestEraseExample fixes it.
const (
	eraseLoOpen = 1 << 0 // from the low fence
	eraseHiOpen = 1 << 1 // to the high fence

	eraseFlags = eraseLoOpen | eraseHiOpen
)

// appendErase appends a delta that deletes every key of a leaf in [lo, hi). An
// end that is open is the leaf's fence, and its key is not stored.
//
// REQUIRES: the range is not empty.
func appendErase(dst []byte, lo, hi []byte, loOpen, hiOpen bool) []byte {
	if loOpen {
		lo = nil
	}
	if hiOpen {
		hi = nil
	}
	dst = append(dst, kindLeafErase, nodeFlag(loOpen, eraseLoOpen)|nodeFlag(hiOpen, eraseHiOpen))
	dst = binary.AppendUvarint(dst, uint64(len(lo)))
	dst = append(dst, lo...)
	return append(dst, hi...)
}

// An erasure is a decoded delta of that kind, borrowed. Its stamp and seq are set
// by the merge.
type erasure struct {
	lo, hi         []byte
	loOpen, hiOpen bool

	stamp uint64
	seq   uint32
}

// decodeErase returns the erasure after checking it completely.
func decodeErase(d []byte) (e erasure, err error) {
	if len(d) < 3 || d[0] != kindLeafErase || d[1]&^eraseFlags != 0 {
		return e, fmt.Errorf("%w: header of an erasure", ErrCorrupt)
	}
	n, size := uvarint(d[2:])
	at := 2 + size
	if size == 0 || len(d) < at+n {
		return e, fmt.Errorf("%w: erasure too short", ErrCorrupt)
	}
	e = erasure{lo: d[at : at+n : at+n], hi: d[at+n:], loOpen: d[1]&eraseLoOpen != 0, hiOpen: d[1]&eraseHiOpen != 0}
	switch {
	case len(e.lo) > MaxKeyBytes || len(e.hi) > MaxKeyBytes:
		return e, fmt.Errorf("%w: bounds of an erasure", ErrCorrupt)
	case e.loOpen && n != 0 || e.hiOpen && len(e.hi) != 0:
		return e, fmt.Errorf("%w: erasure with an open end has a key there", ErrCorrupt)
	case !e.hiOpen && bytes.Compare(e.lo, e.hi) >= 0:
		return e, fmt.Errorf("%w: erasure of nothing", ErrCorrupt)
	}
	return e, nil
}

// covers reports whether the erasure deletes key.
func (e *erasure) covers(key []byte) bool {
	return (e.loOpen || bytes.Compare(key, e.lo) >= 0) && (e.hiOpen || bytes.Compare(key, e.hi) < 0)
}

// within returns the entries [from, to) of n that the erasure deletes.
func (e *erasure) within(n node) span {
	s := span{0, n.count()}
	if !e.loOpen {
		s.from, _ = n.search(e.lo)
	}
	if !e.hiOpen {
		s.to, _ = n.search(e.hi)
	}
	return s
}

func (e *erasure) String() string {
	lo, hi := fmt.Sprintf("%q", e.lo), fmt.Sprintf("%q", e.hi)
	if e.loOpen {
		lo = "fence"
	}
	if e.hiOpen {
		hi = "fence"
	}
	return "erase [" + lo + ", " + hi + ")\n"
}

// A span is a run of entries [from, to) of the base.
type span struct{ from, to int }

// sortErasures puts the erasures newest first and finds what they delete of the
// base.
func (m *merger) sortErasures() {
	m.erased, m.nextErased = m.erased[:0], 0
	if len(m.erasures) == 0 {
		return
	}
	slices.SortFunc(m.erasures, func(a, b erasure) int { return cmp.Compare(b.seq, a.seq) })
	for i := range m.erasures {
		if s := m.erasures[i].within(m.base); s.from < s.to {
			m.erased = append(m.erased, s)
		}
	}
	slices.SortFunc(m.erased, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	joined := m.erased[:0]
	for _, s := range m.erased {
		if last := len(joined) - 1; last >= 0 && s.from <= joined[last].to {
			joined[last].to = max(joined[last].to, s.to)
		} else {
			joined = append(joined, s)
		}
	}
	m.erased = joined
}

// planErased plans base entries [from, to), which no change touches and some
// erasure deletes. If no moment is open they just go: each costs a look at its
// flags, for the chunks that it may name.
func (m *merger) planErased(from, to int) {
	all := m.rule.visible || len(m.rule.moments) == 0 && !m.rule.keepAll
	for i := from; i < to; {
		end := m.base.group(i)
		if !all || m.rule.keepIndirect && m.hasIndirect(i, end) {
			m.group = m.group[:0]
			m.addBaseVersions(i, end)
			m.planGroup()
		} else if m.rule.free != nil {
			for ; i < end; i++ {
				if m.base.entryFlags(i)&entryIndirect != 0 {
					m.rule.free(m.base.entry(i).value)
				}
			}
		}
		i = end
	}
}

func (m *merger) hasIndirect(from, to int) bool {
	for i := from; i < to; i++ {
		if m.base.entryFlags(i)&entryIndirect != 0 {
			return true
		}
	}
	return false
}

// addErasures adds to the group, the versions of one key, a tombstone for each
// erasure of the key: above the versions that are older, below the others.
func (m *merger) addErasures() {
	key := m.groupKey()
	made := 0
	for i := range m.erasures {
		e := &m.erasures[i]
		if !e.covers(key) {
			continue
		}
		at := made
		for at < len(m.group) && m.seqOf(m.group[at]) > e.seq {
			at++
		}
		m.group = slices.Insert(m.group, at, m.makeVersion(e.stamp, entryTombstone, nil))
		made = at + 1
	}
}

// seqOf orders the group's versions that have been found in fragments: those of
// the base are older than every erasure.
func (m *merger) seqOf(v version) uint32 {
	if v.from == inChanges {
		return m.changes[v.index].seq
	}
	return 0
}
