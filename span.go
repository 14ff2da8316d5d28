package db

import (
	"bytes"

	"github.com/google/btree"
)

const setDegree = 32 // fan-out of the ordered sets of this package

// A span is the keys from lo up to but not including hi. A nil hi is an open
// end. The empty lo is the first key.
type span struct{ lo, hi []byte }

func (s span) empty() bool { return s.hi != nil && bytes.Compare(s.lo, s.hi) >= 0 }

func (s span) covers(key []byte) bool {
	return bytes.Compare(key, s.lo) >= 0 && (s.hi == nil || bytes.Compare(key, s.hi) < 0)
}

// contains reports whether all of t is in s.
func (s span) contains(t span) bool { return bytes.Compare(t.lo, s.lo) >= 0 && !endsBefore(s.hi, t.hi) }

// meets reports whether the union of the two is one span.
func (s span) meets(t span) bool {
	return (s.hi == nil || bytes.Compare(t.lo, s.hi) <= 0) && (t.hi == nil || bytes.Compare(s.lo, t.hi) <= 0)
}

// key returns the only key of the span, if it has no more.
func (s span) key() (key []byte, ok bool) {
	n := len(s.lo)
	if s.hi == nil || len(s.hi) != n+1 || s.hi[n] != 0 || !bytes.Equal(s.lo, s.hi[:n]) {
		return nil, false
	}
	return s.lo, true
}

// endsBefore compares upper ends, of which nil is the greatest.
func endsBefore(a, b []byte) bool { return a != nil && (b == nil || bytes.Compare(a, b) < 0) }

// storable returns the span with the same keys whose ends are no longer than a
// key can be; ok is false if there are no such keys.
func (s span) storable() (t span, ok bool) {
	t = s
	if len(t.lo) > MaxKeyBytes {
		// A key that is longest has none between itself and what begins with it.
		if t.lo = prefixEnd(t.lo[:MaxKeyBytes]); t.lo == nil {
			return t, false
		}
	}
	if len(t.hi) > MaxKeyBytes {
		t.hi = prefixEnd(t.hi[:MaxKeyBytes])
	}
	return t, !t.empty()
}

// A spanSet is a set of keys, held as spans of which no two meet. What it holds
// is never changed in place, so that a clone can share it.
type spanSet struct{ spans *btree.BTreeG[span] } // by lo

func newSpanSet() spanSet {
	return spanSet{btree.NewG(setDegree, func(a, b span) bool { return bytes.Compare(a.lo, b.lo) < 0 })}
}

func (s *spanSet) clone() spanSet { return spanSet{s.spans.Clone()} }
func (s *spanSet) len() int       { return s.spans.Len() }
func (s *spanSet) clear()         { s.spans.Clear(true) }

// find returns the span that covers key.
func (s *spanSet) find(key []byte) (found span, ok bool) {
	if s.spans.Len() == 0 {
		return found, false
	}
	s.spans.DescendLessOrEqual(span{lo: key}, func(x span) bool {
		found, ok = x, x.covers(key)
		return false
	})
	return found, ok
}

// add adds the keys of x, whose ends it takes over.
//
// REQUIRES: x is not empty.
func (s *spanSet) add(x span) {
	var met []span
	s.spans.DescendLessOrEqual(x, func(y span) bool {
		if y.meets(x) {
			met = append(met, y)
		}
		return false
	})
	s.spans.AscendGreaterOrEqual(x, func(y span) bool {
		if !y.meets(x) {
			return false
		}
		met = append(met, y)
		return true
	})
	for _, y := range met {
		if bytes.Compare(y.lo, x.lo) < 0 {
			x.lo = y.lo
		}
		if endsBefore(x.hi, y.hi) {
			x.hi = y.hi
		}
		s.spans.Delete(y)
	}
	s.spans.ReplaceOrInsert(x)
}
