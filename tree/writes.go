package tree

import (
	"bytes"
	"fmt"
	"sort"
)

// An OpKind says what an Op does to its key.
type OpKind uint8

const (
	OpSet    OpKind = iota // Key gets Value
	OpDelete               // Key goes
	OpMerge                // Operands are put on Key's value, in order
)

// An Op is one write of a commit.
type Op struct {
	Key      []byte
	Kind     OpKind
	Value    []byte   // OpSet
	Operands [][]byte // OpMerge: at least one, in order
}

// A Range is the keys from Lo up to but not including Hi. A nil Hi is an open end.
type Range struct{ Lo, Hi []byte }

// empty reports whether no key is in the range.
func (r Range) empty() bool { return r.Hi != nil && bytes.Compare(r.Lo, r.Hi) >= 0 }

// endsBy reports whether all of the range lies below the high fence.
func (r Range) endsBy(hi []byte, last bool) bool {
	return last || r.Hi != nil && bytes.Compare(r.Hi, hi) <= 0
}

// Writes are what a commit writes. Erase comes before Ops: what an Op sets is not
// erased.
type Writes struct {
	Erase []Range // range deletions: ascending, disjoint, none empty
	Ops   []Op    // sorted by key, unique
}

// Reads are what a transaction has read as of Moment, which is open.
type Reads struct {
	Moment *Moment
	Keys   [][]byte // sorted, unique; present or absent
	Ranges []Range  // ascending, disjoint; as far as scanned
}

func (r *Reads) empty() bool { return len(r.Keys) == 0 && len(r.Ranges) == 0 }

// check returns why w cannot be written, wherever it is to go.
func (t *Tree) checkWrites(w *Writes) error {
	if !ascending(w.Erase) {
		return ErrUnsorted
	}
	for i := range w.Ops {
		op := &w.Ops[i]
		if i > 0 && bytes.Compare(w.Ops[i-1].Key, op.Key) >= 0 {
			return ErrUnsorted
		}
		if err := t.checkOp(op); err != nil {
			return fmt.Errorf("operation %d of a commit: %w", i, err)
		}
	}
	return nil
}

func (t *Tree) checkOp(op *Op) error {
	if len(op.Key) > MaxKeyBytes || len(op.Value) > MaxValueBytes {
		return ErrTooLarge
	}
	if op.Kind != OpMerge {
		return nil
	}
	if t.options.Merger == nil {
		return ErrNoMerger
	}
	for _, x := range op.Operands {
		if len(x) > t.operandMax() {
			return fmt.Errorf("%w: operand of %d bytes", ErrTooLarge, len(x))
		}
	}
	return nil
}

func checkReads(r *Reads) error {
	if !ascending(r.Ranges) {
		return ErrUnsorted
	}
	for i := 1; i < len(r.Keys); i++ {
		if bytes.Compare(r.Keys[i-1], r.Keys[i]) >= 0 {
			return ErrUnsorted
		}
	}
	return nil
}

// ascending reports whether the ranges ascend, and are disjoint and not empty.
func ascending(ranges []Range) bool {
	for i, r := range ranges {
		if r.empty() || len(r.Lo) > MaxKeyBytes {
			return false
		}
		if i > 0 && (ranges[i-1].Hi == nil || bytes.Compare(ranges[i-1].Hi, r.Lo) > 0) {
			return false
		}
	}
	return true
}

// A cursor goes through what a commit writes and reads in key order, leaf by
// leaf. All that lies below at is done.
type cursor struct {
	at    []byte
	erase int // the first range that is not done, and so on
	op    int
	key   int
	span  int
}

// A share is the part of a commit that belongs to one leaf: what lies between the
// cursor from and the leaf's high fence. Ranges may begin before the leaf, or end
// behind it.
type share struct {
	from, to cursor
	erase    []Range
	ops      []Op
	keys     [][]byte
	spans    []Range
}

func (s *share) reads() bool  { return len(s.keys) > 0 || len(s.spans) > 0 }
func (s *share) writes() bool { return len(s.erase) > 0 || len(s.ops) > 0 }

// next returns the first key whose leaf is wanted; ok is false at the end.
func (c *commit) next(x *cursor) (key []byte, ok bool) {
	take := func(k []byte) {
		if bytes.Compare(k, x.at) < 0 {
			k = x.at // a range that began before
		}
		if !ok || bytes.Compare(k, key) < 0 {
			key, ok = k, true
		}
	}
	if x.erase < len(c.w.Erase) {
		take(c.w.Erase[x.erase].Lo)
	}
	if x.op < len(c.w.Ops) {
		take(c.w.Ops[x.op].Key)
	}
	if x.key < len(c.r.Keys) {
		take(c.r.Keys[x.key])
	}
	if x.span < len(c.r.Ranges) {
		take(c.r.Ranges[x.span].Lo)
	}
	return key, ok
}

// share returns what lies between x and the high fence of the leaf where x has
// arrived.
func (c *commit) share(x cursor, hi []byte, last bool) share {
	s := share{from: x, to: x}
	s.to.at = hi
	s.to.op += below(len(c.w.Ops)-x.op, hi, last, func(i int) []byte { return c.w.Ops[x.op+i].Key })
	s.to.key += below(len(c.r.Keys)-x.key, hi, last, func(i int) []byte { return c.r.Keys[x.key+i] })
	s.ops = c.w.Ops[x.op:s.to.op]
	s.keys = c.r.Keys[x.key:s.to.key]
	s.erase, s.to.erase = rangesBelow(c.w.Erase, x.erase, hi, last)
	s.spans, s.to.span = rangesBelow(c.r.Ranges, x.span, hi, last)
	return s
}

// below returns how many of n ascending keys lie below the high fence.
func below(n int, hi []byte, last bool, key func(i int) []byte) int {
	if last {
		return n
	}
	return sort.Search(n, func(i int) bool { return bytes.Compare(key(i), hi) >= 0 })
}

// rangesBelow returns the ranges from i on that begin below the high fence, and
// the first that does not end by it.
func rangesBelow(ranges []Range, i int, hi []byte, last bool) (met []Range, next int) {
	n := i + below(len(ranges)-i, hi, last, func(k int) []byte { return ranges[i+k].Lo })
	if n == i {
		return nil, i
	}
	next = n
	if !ranges[n-1].endsBy(hi, last) {
		next-- // it goes on in the next leaf
	}
	return ranges[i:n], next
}
