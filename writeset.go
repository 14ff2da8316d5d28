package db

import (
	"bytes"

	"github.com/google/btree"

	"github.com/pulkdb/db/tree"
)

// A writeSet is what a batch or a transaction writes, ready to be committed: for
// each key what its last writes come to, and the ranges that are deleted. The
// ranges come first: a range that is deleted takes the earlier writes in it out
// of the set, so those that are left are later ones.
type writeSet struct {
	points *btree.BTreeG[pointWrite] // by key
	erased spanSet
}

// A pointWrite is what is written to one key: first what kind says, then the
// operands.
type pointWrite struct {
	key      []byte
	kind     OpKind   // OpSet, OpDelete, or OpMerge: on whatever is there
	value    []byte   // of an OpSet; not nil
	operands [][]byte // in order; a clone may share the array, never beyond its len
}

func newWriteSet() writeSet {
	less := func(a, b pointWrite) bool { return bytes.Compare(a.key, b.key) < 0 }
	return writeSet{btree.NewG(setDegree, less), newSpanSet()}
}

// clone returns the writes as they are now. It costs nothing until one of the
// two changes, and then a little per change.
func (s *writeSet) clone() writeSet { return writeSet{s.points.Clone(), s.erased.clone()} }

func (s *writeSet) empty() bool { return s.points.Len() == 0 && s.erased.len() == 0 }

func (s *writeSet) clear() {
	s.points.Clear(true)
	s.erased.clear()
}

// set, delete, erase and merge add a write, whose slices they take over.
func (s *writeSet) set(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	s.points.ReplaceOrInsert(pointWrite{key: key, kind: OpSet, value: value})
}

func (s *writeSet) delete(key []byte) {
	s.points.ReplaceOrInsert(pointWrite{key: key, kind: OpDelete})
}

func (s *writeSet) merge(key, operand []byte) {
	w, ok := s.points.Get(pointWrite{key: key})
	if !ok {
		w = pointWrite{key: key, kind: OpMerge}
	}
	w.operands = append(w.operands, operand)
	s.points.ReplaceOrInsert(w)
}

func (s *writeSet) erase(x span) {
	x, ok := x.storable()
	if !ok || x.empty() {
		return
	}
	var gone []pointWrite
	s.points.AscendGreaterOrEqual(pointWrite{key: x.lo}, func(w pointWrite) bool {
		if !x.covers(w.key) {
			return false
		}
		gone = append(gone, w)
		return true
	})
	for _, w := range gone {
		s.points.Delete(w)
	}
	s.erased.add(x)
}

// get returns what is written to key: a pointWrite with the kind 0 if nothing is.
// Below an OpMerge there is nothing if erased is true, else what is stored.
func (s *writeSet) get(key []byte) (w pointWrite, erased bool) {
	w, _ = s.points.Get(pointWrite{key: key})
	if w.kind == 0 || w.kind == OpMerge {
		_, erased = s.erased.find(key)
	}
	return w, erased
}

// from returns the first write to key or a greater one; after to a greater one.
func (s *writeSet) from(key []byte) (found pointWrite, ok bool) {
	s.points.AscendGreaterOrEqual(pointWrite{key: key}, func(w pointWrite) bool {
		found, ok = w, true
		return false
	})
	return found, ok
}

func (s *writeSet) after(key []byte) (found pointWrite, ok bool) {
	s.points.AscendGreaterOrEqual(pointWrite{key: key}, func(w pointWrite) bool {
		if bytes.Equal(w.key, key) {
			return true
		}
		found, ok = w, true
		return false
	})
	return found, ok
}

// before returns the last write to a key less than key.
func (s *writeSet) before(key []byte) (found pointWrite, ok bool) {
	s.points.DescendLessOrEqual(pointWrite{key: key}, func(w pointWrite) bool {
		if bytes.Equal(w.key, key) {
			return true
		}
		found, ok = w, true
		return false
	})
	return found, ok
}

// tree returns the writes as package tree takes them. Operands on a value that is
// known, or known to be absent, are folded; if that fails, so does tree, with
// the *MergeError.
func (s *writeSet) tree(merger Merger) (*tree.Writes, error) {
	out := &tree.Writes{Ops: make([]tree.Op, 0, s.points.Len())}
	s.erased.spans.Ascend(func(x span) bool {
		out.Erase = append(out.Erase, tree.Range{Lo: x.lo, Hi: x.hi})
		return true
	})
	var err error
	s.points.Ascend(func(w pointWrite) bool {
		op := tree.Op{Key: w.key}
		switch {
		case w.kind == OpMerge:
			op.Kind, op.Operands = tree.OpMerge, w.operands
		default:
			var value []byte
			if value, err = w.fold(merger, nil); err != nil {
				return false
			}
			op.Kind, op.Value = tree.OpSet, value
			if value == nil {
				op.Kind = tree.OpDelete
			}
		}
		out.Ops = append(out.Ops, op)
		return true
	})
	return out, err
}

// bytesOf returns the bytes of all keys, values, operands and bounds in w.
func bytesOf(w *tree.Writes) (sum int) {
	for i := range w.Erase {
		sum += len(w.Erase[i].Lo) + len(w.Erase[i].Hi)
	}
	for i := range w.Ops {
		op := &w.Ops[i]
		sum += len(op.Key) + len(op.Value)
		for _, operand := range op.Operands {
			sum += len(operand)
		}
	}
	return sum
}

// A copier makes copies in blocks of memory. A block that is full stays where it
// is, since copies are in it.
type copier struct{ block []byte }

const (
	copierBytesMin = 4 << 10 // memory that is taken for copies at once,
	copierBytesMax = 1 << 20 // unless one copy needs more
)

// copy returns a copy of p that is not nil.
func (c *copier) copy(p []byte) []byte {
	if c.block == nil || len(p) > cap(c.block)-len(c.block) {
		size := min(max(2*cap(c.block), copierBytesMin), copierBytesMax)
		c.block = make([]byte, 0, max(len(p), size))
	}
	start := len(c.block)
	c.block = append(c.block, p...)
	return c.block[start:len(c.block):len(c.block)]
}

// copyEnd is copy, and nil for nil: an open end.
func (c *copier) copyEnd(p []byte) []byte {
	if p == nil {
		return nil
	}
	return c.copy(p)
}

// reset makes the newest block free for copies again.
func (c *copier) reset() {
	c.block = c.block[:0]
	if cap(c.block) > copierBytesMax {
		c.block = nil
	}
}
